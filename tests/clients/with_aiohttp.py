"""aiohttp: obeys HTTP_PROXY where a session is made with trust_env=True."""

import asyncio

import aiohttp

from plan import Answer, run


class Client:
    version = aiohttp.__version__

    def __init__(self, place):
        self.place = place
        self.loop = asyncio.new_event_loop()
        self.session = None
        self.fresh()

    def fresh(self):
        self.loop.run_until_complete(self.renew())

    async def renew(self):
        if self.session:
            await self.session.close()
        self.session = aiohttp.ClientSession(headers=self.place.credentials, trust_env=True)

    def request(self, method, path, headers, body, follow=False):
        return self.loop.run_until_complete(self.answer(method, path, headers, body, follow))

    async def answer(self, method, path, headers, body, follow):
        url = self.url(path)
        data = body if body is None or isinstance(body, bytes) else streamed(body)
        async with self.session.request(method, url, headers=headers, data=data, allow_redirects=follow) as answer:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, headers, await answer.read())

    def follow(self, path):
        return self.request("GET", path, {}, None, follow=True)

    def lines(self, path):
        answer = self.loop.run_until_complete(self.session.get(self.url(path)))
        while line := self.loop.run_until_complete(answer.content.readline()):
            yield line.decode().rstrip("\n")
        answer.release()

    def url(self, path):
        return self.place.base + path


async def streamed(pieces):
    for piece in pieces:
        yield piece


run(Client)
