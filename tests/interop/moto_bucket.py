"""What moto_smoke.sh does to its buckets with boto3, at the endpoint in AWS_ENDPOINT_URL.

    python moto_bucket.py wait                         until the server answers
    python moto_bucket.py upload FOLDER BUCKET         makes BUCKET and `masks`, and puts FOLDER's images
    python moto_bucket.py download BUCKET PREFIX DIR   checks an output's parts against its markers, and copies it

Exits with 0 when all went well, with 1 and one line per problem when an output is not what its markers say.
"""

import hashlib
import json
import sys
import time
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError

SECONDS_TO_START = 30
IMAGES = {".jpg", ".png"}


def wait(client) -> None:
    begun = time.monotonic()
    while True:
        try:
            client.list_buckets()
            return
        except BotoCoreError:
            if time.monotonic() - begun > SECONDS_TO_START:
                raise
            time.sleep(0.2)


def upload(client, folder: Path, bucket: str) -> None:
    for name in (bucket, "masks"):
        client.create_bucket(Bucket=name)
    for path in sorted(folder.iterdir()):
        if path.suffix in IMAGES:
            client.upload_file(str(path), bucket, f"{folder.name}/{path.name}")


def read_all(client, bucket: str, prefix: str) -> dict[str, bytes]:
    """The objects below `prefix`, by their keys without it."""
    objects = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
        for listed in page.get("Contents", []):
            body = client.get_object(Bucket=bucket, Key=listed["Key"])["Body"].read()
            objects[listed["Key"].removeprefix(f"{prefix}/")] = body
    return objects


def problems(objects: dict[str, bytes]) -> list[str]:
    """What the markers say that is not so, and parts that no marker names."""
    found = []
    named = set()
    markers = [key for key in objects if key.startswith("_commits/")]
    if len(markers) < 2:
        found.append(f"{len(markers)} markers: a job of several shards has several")
    for key in markers:
        marker = json.loads(objects[key])
        for part in (marker["masks"], marker["images"]):
            path = part["path"]
            named.add(path)
            body = objects.get(path)
            if body is None:
                found.append(f"{key} names {path}, which is not there")
            elif (len(body), hashlib.sha256(body).hexdigest()) != (part["bytes"], part["sha256"]):
                found.append(f"{path} is not what {key} says")
            elif not (body.startswith(b"PAR1") and body.endswith(b"PAR1")):
                found.append(f"{path} is no Parquet file")
        if marker["masks"]["rows"] == 0:
            found.append(f"{key} has no masks")
    parts = {key for key in objects if key.startswith(("masks/", "images/"))}
    found += [f"no marker names {path}" for path in sorted(parts - named)]
    found += [f"{key} is not there" for key in ("_job.json", "_manifest.parquet") if key not in objects]
    found += [f"{key} was left behind" for key in objects if key.startswith("_workers/")]
    return found


def download(client, bucket: str, prefix: str, to: Path) -> int:
    objects = read_all(client, bucket, prefix)
    found = problems(objects)
    for problem in found:
        print(f"s3://{bucket}/{prefix}: {problem}")
    for key, body in objects.items():
        path = to / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    if not found:
        print(f"s3://{bucket}/{prefix}: ok, {len(objects)} objects")
    return 1 if found else 0


def main() -> int:
    client = boto3.client("s3")
    match sys.argv[1:]:
        case ["wait"]:
            wait(client)
        case ["upload", folder, bucket]:
            upload(client, Path(folder), bucket)
        case ["download", bucket, prefix, to]:
            return download(client, bucket, prefix, Path(to))
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
