"""boto3 as an app uses it: with keys that mean nothing, towards the proxy. Moto is AWS, and verifies what reaches it.

    aws.py prepare MOTO                   a user, a role, a bucket and a table; prints the user's keys
    aws.py use MOTO PROXY                 through its routes `objects` and `rows`
    aws.py presigned MOTO PROXY LOG       through its route `objects`, which signs with the user's keys, as they come in the
                                          environment; LOG is what moto prints
"""

import base64
import http.client
import io
import json
import os
import re
import sys
import time
import urllib.parse
import urllib.request
import zlib

import boto3
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

REGION = "eu-west-1"
ROLE = "reader"
KEYS = ["plain", "a b+c", "ü/ä €", "x'()*!~&$@=:,;?#[]", "100%", "folder/"]
# Of these the proxy and a server might see different paths.
REFUSED = ["a%2Fb", "a//b", "a/../b"]


def client(service, base, key="countersign"):
    # Else it presigns for S3 in the form that AWS has given up.
    config = Config(s3={"addressing_style": "path"}, signature_version="s3v4" if service == "s3" else "v4", retries={"total_max_attempts": 1})
    return boto3.client(
        service,
        endpoint_url=base,
        region_name=REGION,
        aws_access_key_id=key,
        aws_secret_access_key=key,
        config=config,
    )


def prepare(moto):
    iam = client("iam", moto)
    everything = [{"Effect": "Allow", "Action": ["s3:*", "dynamodb:*", "sts:*"], "Resource": "*"}]
    policy = json.dumps({"Version": "2012-10-17", "Statement": everything})
    iam.create_user(UserName="proxy")
    iam.put_user_policy(UserName="proxy", PolicyName="all", PolicyDocument=policy)
    anybody = [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "*"}}]
    trust = json.dumps({"Version": "2012-10-17", "Statement": anybody})
    role = iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    iam.put_role_policy(RoleName=ROLE, PolicyName="all", PolicyDocument=policy)
    keys = iam.create_access_key(UserName="proxy")["AccessKey"]
    where = {"LocationConstraint": REGION}
    client("s3", moto).create_bucket(Bucket="bucket", CreateBucketConfiguration=where)
    client("dynamodb", moto).create_table(
        TableName="table",
        KeySchema=[{"AttributeName": "key", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "key", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    print(json.dumps({"id": keys["AccessKeyId"], "key": keys["SecretAccessKey"], "role": role}))


def use(moto, proxy):
    guarded(moto)
    objects(client("s3", f"{proxy}/objects"))
    chunks(proxy, client("s3", f"{proxy}/objects"))
    rows(client("dynamodb", f"{proxy}/rows"))


def guarded(moto):
    """Moto lets nobody pass who signs with keys that it does not know."""
    try:
        client("s3", moto).list_objects_v2(Bucket="bucket")
    except ClientError as error:
        assert error.response["Error"]["Code"] == "InvalidAccessKeyId", error
    else:
        raise AssertionError("moto does not verify signatures")


def objects(s3):
    for key in KEYS:
        body = b"the body of " + key.encode()
        s3.put_object(Bucket="bucket", Key=key, Body=body, Metadata={"note": "a  b"}, Tagging="a=b%20c")
        got = s3.get_object(Bucket="bucket", Key=key)
        assert (got["Body"].read(), got["Metadata"]) == (body, {"note": "a  b"}), key
    listed, more = [], {}
    while True:
        page = s3.list_objects_v2(Bucket="bucket", MaxKeys=2, **more)
        listed += [entry["Key"] for entry in page["Contents"]]
        if not page["IsTruncated"]:
            break
        more = {"ContinuationToken": page["NextContinuationToken"]}
    assert listed == sorted(KEYS, key=str.encode), listed
    large = os.urandom(1 << 20) * 20
    s3.upload_fileobj(io.BytesIO(large), "bucket", "large")
    got = s3.get_object(Bucket="bucket", Key="large")
    assert got["ETag"].endswith('-3"'), f"in three parts: {got['ETag']}"
    assert got["Body"].read() == large, "a large object arrives as it was sent"
    part = s3.get_object(Bucket="bucket", Key="large", Range="bytes=1048570-1048585")["Body"].read()
    assert part == large[1048570:1048586]
    for key in REFUSED:
        try:
            s3.put_object(Bucket="bucket", Key=key, Body=b"")
        except ClientError as error:
            told = error.response["ResponseMetadata"]["HTTPHeaders"]["proxy-status"]
            assert told.endswith("details=path_ambiguous"), (key, told)
        else:
            raise AssertionError(f"{key} is not refused")
    s3.delete_object(Bucket="bucket", Key="plain")
    try:
        s3.get_object(Bucket="bucket", Key="plain")
    except s3.exceptions.NoSuchKey:
        pass
    else:
        raise AssertionError("it was deleted")


def chunks(proxy, s3):
    """Bodies in chunks of AWS's own, as its SDKs send them over https and as streams."""
    body = os.urandom(100_000)
    nothing = "0" * 64
    signed = b"".join(
        b"%x;chunk-signature=%s\r\n%s\r\n" % (len(chunk), nothing.encode(), chunk)
        for chunk in [body[:65536], body[65536:], b""]
    )
    checksum = base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
    plain = b"%x\r\n%s\r\n0\r\nx-amz-checksum-crc32:%s\r\n\r\n" % (len(body), body, checksum.encode())
    forms = [
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", signed, {}),
        ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", plain, {"x-amz-trailer": "x-amz-checksum-crc32"}),
    ]
    place = urllib.parse.urlsplit(proxy)
    for form, content, more in forms:
        day = time.strftime("%Y%m%d")
        headers = {
            "Authorization": f"AWS4-HMAC-SHA256 Credential=countersign/{day}/{REGION}/s3/aws4_request, "
            f"SignedHeaders=host;x-amz-date, Signature={nothing}",
            "X-Amz-Date": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
            "X-Amz-Content-Sha256": form,
            "X-Amz-Decoded-Content-Length": str(len(body)),
            "Content-Encoding": "aws-chunked",
            **more,
        }
        connection = http.client.HTTPConnection(place.netloc)
        connection.request("PUT", "/objects/bucket/chunked", content, headers)
        answer = connection.getresponse()
        assert answer.status == 200, (form, answer.status, answer.read())
        connection.close()
        got = s3.get_object(Bucket="bucket", Key="chunked")["Body"].read()
        assert got == body, f"{form}: {len(got)} bytes of {len(body)}"


def rows(dynamodb):
    item = {"key": {"S": "ü €"}, "n": {"N": "1"}}
    dynamodb.put_item(TableName="table", Item=item)
    assert dynamodb.get_item(TableName="table", Key={"key": item["key"]})["Item"] == item


def presigned(moto, proxy, log):
    """Moto does not verify a signature in a query: that is done here, of the request that it got."""
    s3 = client("s3", f"{proxy}/objects")
    unguarded(moto)
    for key in ["a b+c", "ü/ä €"]:
        url = s3.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": key}, ExpiresIn=60)
        assert urllib.request.urlopen(url).read() == b"the body of " + key.encode()
        verify(moto, key, log)


def unguarded(moto):
    request = urllib.request.Request(f"{moto}/moto-api/reset-auth", b"inf", {"Content-Type": "text/plain"})
    urllib.request.urlopen(request).read()


def verify(moto, key, log):
    with open(log) as lines:
        target = re.findall(r'"GET (\S*X-Amz-Signature=\S*) HTTP/1.1" 200', lines.read())[-1]
    asked = dict(urllib.parse.parse_qsl(target.partition("?")[2]))
    # It prints the target otherwise than it came.
    path = urllib.parse.quote(f"/bucket/{key}")
    pairs = {name: value for name, value in asked.items() if name != "X-Amz-Signature"}
    query = urllib.parse.urlencode(pairs, quote_via=urllib.parse.quote, safe="")
    signer = S3SigV4QueryAuth(Credentials(os.environ["AWS_ID"], os.environ["AWS_KEY"]), "s3", REGION)
    request = AWSRequest("GET", f"{moto}{path}?{query}")
    request.context["timestamp"] = asked["X-Amz-Date"]
    request.headers["host"] = urllib.parse.urlsplit(moto).netloc
    text = signer.string_to_sign(request, signer.canonical_request(request))
    assert asked["X-Amz-Signature"] == signer.signature(text, request), target
    assert asked["X-Amz-Credential"].startswith(os.environ["AWS_ID"] + "/"), target


if __name__ == "__main__":
    {"prepare": prepare, "use": use, "presigned": presigned}[sys.argv[1]](*sys.argv[2:])
