"""httpx over HTTP/1.1, or with the argument `2` over HTTP/2 alone: obeys HTTP_PROXY and HTTPS_PROXY."""

import sys

import httpx

from plan import Answer, run

HTTP2 = sys.argv[1:] == ["2"]


class Client:
    version = httpx.__version__

    def __init__(self, place):
        self.place = place
        self.fresh()

    def fresh(self):
        self.client = httpx.Client(http1=not HTTP2, http2=HTTP2, headers=self.place.credentials, proxy=self.place.proxy)

    def request(self, method, path, headers, body, follow=False):
        url = self.place.base + path
        answer = self.client.request(method, url, headers=headers, content=body, follow_redirects=follow)
        return Answer(answer.status_code, dict(answer.headers), answer.content, answer.http_version)

    def follow(self, path):
        return self.request("GET", path, {}, None, follow=True)

    def lines(self, path):
        with self.client.stream("GET", self.place.base + path) as answer:
            yield from answer.iter_lines()


run(Client)
