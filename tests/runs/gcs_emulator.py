"""python gcs_emulator.py PORT: Google Cloud Storage in memory, on this machine alone, with a bucket named "bucket".

It is the package gcp-storage-emulator, with the generations of objects, by which tensorstore writes safely: the package
neither tells them with an object's content nor heeds the conditions on them.
"""

import sys
from http import HTTPStatus

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

_download, _insert = objects.download, objects.insert


def _generation(storage, bucket, name):
    try:
        return storage.get_file_obj(bucket, name)["generation"]
    except NotFound:
        return "0"


def download(request, response, storage, *rest, **more):
    generation = _generation(storage, request.params["bucket_name"], request.params["object_id"])
    if request.query.get("ifGenerationNotMatch", [""])[0] == generation != "0":
        response.status = HTTPStatus.NOT_MODIFIED
        return
    response["x-goog-generation"] = generation
    _download(request, response, storage, *rest, **more)


def insert(request, response, storage, *rest, **more):
    wanted = request.query.get("ifGenerationMatch")
    if wanted and wanted[0] != _generation(storage, request.params["bucket_name"], request.query["name"][0]):
        response.status = HTTPStatus.PRECONDITION_FAILED
        return
    _insert(request, response, storage, *rest, **more)


if __name__ == "__main__":
    objects.download, objects.insert = download, insert
    from gcp_storage_emulator import server  # which takes the handlers as they are now

    server.create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="bucket").run()
