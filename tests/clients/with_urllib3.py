"""urllib3: does not read the environment; a ProxyManager names the proxy."""

import urllib3

from plan import Answer, run


class Client:
    version = urllib3.__version__

    def __init__(self, place):
        self.place = place
        self.fresh()

    def fresh(self):
        credentials = self.place.credentials
        if self.place.proxy:
            self.pool = urllib3.ProxyManager(self.place.proxy, headers=credentials)
        else:
            self.pool = urllib3.PoolManager(headers=credentials)

    def request(self, method, path, headers, body, follow=False):
        headers = self.place.credentials | headers
        answer = self.pool.request(
            method, self.place.base + path, headers=headers, body=body, redirect=follow, retries=False if not follow else None
        )
        return Answer(answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.data)

    def follow(self, path):
        return self.request("GET", path, {}, None, follow=True)

    def lines(self, path):
        answer = self.pool.request("GET", self.place.base + path, preload_content=False, retries=False)
        for chunk in answer.read_chunked():
            yield from chunk.decode().splitlines()
        answer.release_conn()


run(Client)
