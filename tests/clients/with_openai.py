"""openai: OPENAI_BASE_URL or base_url, and the key that it will not start without."""

import openai

from plan import Cannot, piece, read_events, refusal, measured, run

NO_SUCH_CALL = "has no such call"


class Client:
    version = openai.__version__

    def __init__(self, place):
        self.place = place
        self.fresh()

    def fresh(self):
        headers = {"X-Api-Key": self.place.own}
        self.sdk = openai.OpenAI(base_url=self.place.base, api_key=self.place.own, default_headers=headers)


class OpenAiPlan:
    def __init__(self, client):
        self.client = client

    @property
    def sdk(self):
        return self.client.sdk

    def get(self, step):
        return told(self.sdk.models.with_raw_response.retrieve("get", extra_query={"q": "a b", "list": [1, 2]}))

    def json(self, step):
        return told(self.sdk.chat.completions.with_raw_response.create(**step["body"]))

    def upload(self, step):
        content = b"".join(piece(number) for number in range(step["pieces"]))
        return told(self.sdk.files.with_raw_response.create(file=("notes.txt", content), purpose="assistants"))

    def large(self, step):
        return measured(self.sdk.files.content("large").read())

    def events(self, step):
        chunks = self.sdk.chat.completions.create(**step["body"], stream=True)
        lines = (f"data: {chunk.to_json(indent=None)}" for chunk in chunks)
        return {"events": read_events(lines, lambda number: self.sdk.models.retrieve(f"ack-{number}"))}

    def redirect(self, step):
        return told(self.sdk.models.with_raw_response.retrieve("redirect"))

    def redirect_path(self, step):
        return told(self.sdk.models.with_raw_response.retrieve("redirect-path"))

    def keep_alive(self, step):
        self.client.fresh()
        for number in range(step["requests"]):
            answer = self.sdk.models.with_raw_response.retrieve(f"keep-{number}")
        return told(answer)

    def denied(self, step):
        try:
            self.sdk.models.retrieve("denied")
        except openai.PermissionDeniedError as error:
            return refusal(error.status_code, error.response.headers["content-type"], error.response.json())

    def head(self, step):
        raise Cannot(NO_SUCH_CALL)

    def no_content(self, step):
        raise Cannot(NO_SUCH_CALL)

    def not_modified(self, step):
        raise Cannot(NO_SUCH_CALL)


def told(answer):
    return {"status": answer.http_response.status_code, "text": answer.http_response.text}


run(Client, OpenAiPlan)
