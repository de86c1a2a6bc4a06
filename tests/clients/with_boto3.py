"""boto3: AWS_ENDPOINT_URL or endpoint_url, and static keys that it signs with. S3 stands for the other services."""

import io
import json

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from plan import Cannot, measured, piece, read_events, run


class Client:
    version = boto3.__version__

    def __init__(self, place):
        self.place = place
        self.fresh()

    def fresh(self):
        self.sdk = boto3.client(
            "s3",
            endpoint_url=self.place.base,
            region_name="us-east-1",
            aws_access_key_id="AKIAOWN",
            aws_secret_access_key=self.place.own,
            aws_session_token=self.place.own,
            config=Config(s3={"addressing_style": "path"}),
        )


class S3Plan:
    def __init__(self, client):
        self.client = client

    def object(self, key, **more):
        return self.client.sdk.get_object(Bucket="bucket", Key=key, **more)

    def get(self, step):
        return told(self.object("get", VersionId="a b", PartNumber=1))

    def json(self, step):
        body = json.dumps(step["body"]).encode()
        answer = self.client.sdk.put_object(Bucket="bucket", Key="json", Body=body, ContentType="application/json")
        return {"status": answer["ResponseMetadata"]["HTTPStatusCode"]}

    def upload(self, step):
        content = io.BytesIO(b"".join(piece(number) for number in range(step["pieces"])))
        self.client.sdk.upload_fileobj(content, "bucket", "upload")
        return {"status": 200}

    def large(self, step):
        return measured(self.object("large")["Body"].read())

    def events(self, step):
        lines = (line.decode() for line in self.object("events")["Body"].iter_lines(chunk_size=1))
        return {"events": read_events(lines, lambda number: self.object(f"ack-{number}"))}

    def head(self, step):
        answer = self.client.sdk.head_object(Bucket="bucket", Key="sized")
        return {"status": 200, "length": str(answer["ContentLength"]), "bytes": 0}

    def no_content(self, step):
        answer = self.client.sdk.delete_object(Bucket="bucket", Key="none")
        return {"status": answer["ResponseMetadata"]["HTTPStatusCode"], "bytes": 0}

    def not_modified(self, step):
        try:
            self.object("cached", IfNoneMatch='"1"')
        except ClientError as error:
            return {"status": error.response["ResponseMetadata"]["HTTPStatusCode"], "bytes": 0}

    def redirect(self, step):
        return self.redirected("redirect")

    def redirect_path(self, step):
        return self.redirected("redirect-path")

    def redirected(self, key):
        try:
            return told(self.object(key))
        except ClientError as error:
            raise Cannot("follows no redirect") from error

    def keep_alive(self, step):
        self.client.fresh()
        for number in range(step["requests"]):
            answer = told(self.object(f"keep-{number}"))
        return answer

    def denied(self, step):
        try:
            self.object("denied")
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            headers = error.response["ResponseMetadata"]["HTTPHeaders"]
            # It expects XML; the reason is also a header.
            reason = headers["proxy-status"].rpartition("details=")[2]
            return {"status": status, "type": headers["content-type"], "reason": reason}


def told(answer):
    return {"status": answer["ResponseMetadata"]["HTTPStatusCode"], "text": answer["Body"].read().decode()}


run(Client, S3Plan)
