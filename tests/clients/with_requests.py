"""requests: obeys HTTP_PROXY."""

import requests

from plan import Answer, run


class Client:
    version = requests.__version__

    def __init__(self, place):
        self.place = place
        self.fresh()

    def fresh(self):
        self.session = requests.Session()
        self.session.headers.update(self.place.credentials)

    def request(self, method, path, headers, body, follow=False):
        url = self.place.base + path
        answer = self.session.request(method, url, headers=headers, data=body, allow_redirects=follow)
        return Answer(answer.status_code, dict(answer.headers.lower_items()), answer.content)

    def follow(self, path):
        return self.request("GET", path, {}, None, follow=True)

    def lines(self, path):
        with self.session.get(self.place.base + path, stream=True) as answer:
            yield from answer.iter_lines(chunk_size=None, decode_unicode=True)


run(Client)
