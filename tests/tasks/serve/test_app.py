"""The API: answers equal those of the commands, and what cannot be answered gets a sentence."""

import asyncio
import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from PIL import Image

from simsiam_eval.features.writer import write_features
from simsiam_eval.neighbors.approximate import NeighborIndex
from tasks.serve.guard import Guard
from tasks.serve.service import Limits

DOG = "dog & 'co'"


def uploaded(path):
    return {"image": ("name.png", path.read_bytes(), "image/png")}


def png(width, height, mode="L"):
    data = io.BytesIO()
    Image.new(mode, (width, height)).save(data, "PNG")
    return data.getvalue()


def sentence(response, status):
    assert response.status_code == status, response.text
    detail = response.json()["detail"]
    assert isinstance(detail, str) and detail.endswith(".")
    return detail


@pytest.fixture(scope="module")
def dogs(shapes):
    return sorted((shapes / DOG).iterdir())


def test_an_upload_has_the_features_that_extract_writes(client, gallery_file, dogs):
    with h5py.File(gallery_file) as file:
        ids = file["ids"].asstr()[:].tolist()
        for path in dogs[:5]:
            answer = client.post("/embed", files=uploaded(path)).json()
            row = ids.index(f"{DOG}/{path.name}")
            assert answer["width"] == 512
            np.testing.assert_allclose(answer["features"], file["features"][row], rtol=1e-6, atol=1e-6)


def test_a_search_finds_what_retrieval_search_finds(client, record, gallery_file, encoder_file, dogs):
    searched = record(
        "retrieval", "search", dogs[3], "--gallery", gallery_file, "--checkpoint", encoder_file, "-k", 12
    )["metrics"]["found"][0]["neighbors"]
    answer = client.post("/search?k=12", files=uploaded(dogs[3])).json()
    assert [hit["id"] for hit in answer["hits"]] == [hit["id"] for hit in searched]
    similarities = [hit["similarity"] for hit in answer["hits"]]
    np.testing.assert_allclose(similarities, [hit["similarity"] for hit in searched], atol=1e-6)
    assert (answer["metric"], answer["exact"], answer["total"], answer["more"]) == ("cosine", True, 60, True)
    assert answer["hits"][0]["id"] == f"{DOG}/{dogs[3].name}" and answer["hits"][0]["class"] == DOG


def test_a_search_from_the_gallery_leaves_its_image_out_and_goes_on(client, dogs):
    name = f"{DOG}/{dogs[0].name}"
    pages = [client.get("/search", params={"id": name, "k": 25, "offset": start}).json() for start in (0, 25, 50)]
    hits = [hit["row"] for page in pages for hit in page["hits"]]
    assert [page["more"] for page in pages] == [True, True, False]
    assert len(set(hits)) == len(hits) == pages[0]["total"] == 59
    assert pages[0]["query"]["row"] not in hits
    by_row = client.get("/search", params={"row": pages[0]["query"]["row"], "k": 25}).json()
    assert by_row == pages[0]
    similarities = [hit["similarity"] for page in pages for hit in page["hits"]]
    assert similarities == sorted(similarities, reverse=True)


@pytest.mark.parametrize("start", [0, 5])
def test_the_filter_keeps_the_order_of_the_unfiltered_search(client, dogs, start):
    name = f"{DOG}/{dogs[0].name}"
    everything = client.get("/search", params={"id": name, "k": 59}).json()["hits"]
    for class_name in client.get("/gallery").json()["classes"]:
        wanted = [hit for hit in everything if hit["class"] == class_name]
        parameters = {"id": name, "class": class_name, "k": 7, "offset": start}
        answer = client.get("/search", params=parameters).json()
        assert [hit["row"] for hit in answer["hits"]] == [hit["row"] for hit in wanted[start : start + 7]]
        assert answer["total"] == len(wanted)


def test_more_of_an_upload_needs_no_second_upload(client, dogs):
    whole = client.post("/search?k=20", files=uploaded(dogs[1])).json()
    digest = whole["query"]["upload"]
    rest = client.get("/search", params={"upload": digest, "k": 10, "offset": 10}).json()
    assert rest["hits"] == whole["hits"][10:]
    assert "upload the image again" in sentence(client.get("/search", params={"upload": "0" * 64}), 404)


def test_images_are_listed_by_a_part_of_their_id(client):
    listed = client.get("/gallery/images", params={"contains": "1-1", "k": 5}).json()
    assert len(listed["images"]) == 5 and listed["more"]
    assert all("1-1" in image["id"] for image in listed["images"])
    of_class = client.get("/gallery/images", params={"class": DOG, "k": 100}).json()
    assert len(of_class["images"]) == 20 and not of_class["more"]


def test_a_thumbnail_is_that_of_the_row(client):
    row = client.get("/gallery/images", params={"contains": f"{DOG}/<i>1-19"}).json()["images"][0]["row"]
    answer = client.get(f"/thumbnails/{row}")
    assert answer.headers["content-type"] == "image/webp"
    image = Image.open(io.BytesIO(answer.content))
    assert max(image.size) == 192
    assert np.asarray(image).mean((0, 1)).argmax() == 1  # green


def test_what_does_not_exist_gets_a_sentence(client):
    assert "'nothing'" in sentence(client.get("/search?id=nothing"), 404)
    assert "0 to 59" in sentence(client.get("/search?row=60"), 404)
    assert "0 to 59" in sentence(client.get("/search?row=-1"), 404)
    assert "0 to 59" in sentence(client.get("/thumbnails/60"), 404)
    assert "no class 'bird'" in sentence(client.get("/search?row=1&class=bird"), 404)
    assert "no class 'bird'" in sentence(client.get("/gallery/images?class=bird"), 404)
    assert "k should be greater than or equal to 1" in sentence(client.get("/search?row=1&k=0"), 422)
    assert "k should be less than or equal to 1000" in sentence(client.get("/search?row=1&k=1001"), 422)
    assert "offset + k must be at most 10000" in sentence(client.get("/search?row=1&k=10&offset=9995"), 422)
    assert sentence(client.get("/search?row=1&k=many"), 422) == "k should be a valid integer, got 'many'."
    assert "Give one of id, row and upload" in sentence(client.get("/search"), 422)
    assert "/openapi.json" in sentence(client.get("/docs"), 404)
    assert "Method Not Allowed" in sentence(client.delete("/search"), 405)


def header_of(side):
    """The start of a PNG of side x side pixels: more than Pillow decodes."""
    fields = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + fields + struct.pack(">I", zlib.crc32(fields))
    return header + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def test_bad_images_get_a_sentence(client, shapes, dogs):
    def answer(data):
        return client.post("/embed", files={"image": ("a.png", data)})

    whole = dogs[0].read_bytes()
    assert "not an image" in sentence(answer(b""), 422)
    assert "not an image" in sentence(answer(b"<svg/>"), 422)
    assert "cannot be read" in sentence(answer(whole[: len(whole) // 2]), 422)
    assert "single pixel" in sentence(answer(png(1, 1)), 422)
    assert "2000 x 2000 pixels" in sentence(answer(png(2000, 2000)), 413)  # a few kilobytes
    assert "larger than 0.2 MB" in sentence(answer(whole + bytes(201_000)), 413)
    assert "larger than 0.2 MB" in sentence(answer(bytes(1_000_000)), 413)
    assert "image is required" in sentence(client.post("/embed"), 422)
    assert "image is required" in sentence(client.post("/embed", data={"image": "text"}), 422)
    assert "too many pixels; this server decodes at most 1 million" in sentence(answer(header_of(50_000)), 413)
    # The content is never taken for a path.
    assert "not an image" in sentence(answer(str(dogs[0]).encode()), 422)


def test_no_file_of_the_server_can_be_read(client, shapes, dogs):
    for path in (
        "/page/..%2fapp.py",
        "/page/%2e%2e/app.py",
        "/page//etc/passwd",
        "/thumbnails/..%2f..%2fetc%2fpasswd",
        f"/thumbnails/{dogs[0]}",
    ):
        assert client.get(path).status_code in (404, 422), path
    for name in (str(dogs[0]), f"../{dogs[0].name}", "/etc/passwd", f"folder:{shapes}"):
        sentence(client.get("/search", params={"id": name}), 404)


def test_pages_of_other_sites_are_rejected(service_of, client_of, gallery_file, client):
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[", "localhost@evil.example:1"):
        assert "Host" in sentence(client.get("/gallery", headers={"host": host}), 400)
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "192.168.7.7:8000", "LOCALHOST"):
        assert client.get("/gallery", headers={"host": host}).status_code == 200, host
    named = client_of(service_of(gallery_file, with_encoder=False), names=("gpu-box",))
    assert named.get("/gallery", headers={"host": "GPU-box:8000"}).status_code == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:3000"):
        assert "other sites" in sentence(client.post("/embed", headers={"origin": origin}), 403)
    for site in ("cross-site", "same-site"):  # an image or a script of another page, which has no Origin
        embedded = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}
        assert "other sites" in sentence(client.get("/thumbnails/1", headers=embedded), 403)
        assert client.get("/", headers={"sec-fetch-site": site, "sec-fetch-mode": "navigate"}).status_code == 200
    assert (
        client.get("/gallery", headers={"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}).status_code == 200
    )
    own = client.get("/gallery", headers={"origin": "http://127.0.0.1:8000"})
    assert own.status_code == 200
    assert own.headers["cross-origin-resource-policy"] == "same-origin"
    assert "default-src 'none'" in own.headers["content-security-policy"]


def test_without_an_encoder_only_the_gallery_can_be_searched(service_of, client_of, gallery_file, dogs):
    client = client_of(service_of(gallery_file, with_encoder=False))
    assert "without --checkpoint" in sentence(client.post("/search", files=uploaded(dogs[0])), 409)
    assert len(client.get("/search?row=3").json()["hits"]) == 24
    assert client.get("/gallery").json()["uploads"] is False
    assert 'type="file"' not in client.get("/").text


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat", "HNSW8", "IVF4,SQ8", "PCA16,Flat"])
def test_an_index_is_searched(record, client, service_of, client_of, gallery_file, dogs, tmp_path, factory):
    index = ["--index", factory, "--index-parameters", "nprobe=4" if "IVF" in factory else ""]
    record("retrieval", "build", "--gallery", gallery_file, *index, "--out", tmp_path / "a.index")
    indexed = client_of(service_of(tmp_path / "a.index"))
    for of in (client, indexed):
        assert of.get("/gallery").json()["exact"] is (of is client or factory == "Flat")
    first = [of.post("/search?k=5", files=uploaded(dogs[0])).json()["hits"] for of in (client, indexed)]
    assert first[0][0]["row"] == first[1][0]["row"] or "PCA" in factory
    second = indexed.get("/search", params={"row": first[0][0]["row"], "class": DOG, "k": 30}).json()
    assert len(second["hits"]) == second["total"] == 19
    assert first[0][0]["row"] not in [hit["row"] for hit in second["hits"]]


def test_an_index_without_vectors_says_so(service_of, client_of, gallery_file, monkeypatch):
    monkeypatch.setattr(NeighborIndex, "keep_vectors", lambda index: False)
    client = client_of(service_of(gallery_file, with_encoder=False))
    assert "cannot be searched by id" in sentence(client.get("/search?row=1"), 409)


def test_a_gallery_without_classes_or_images(service_of, client_of, tmp_path):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, 512)).astype(np.float32)
    source = {"spec": None, "fingerprint": None, "class_names": None}
    write_features(
        tmp_path / "a.h5", features, np.full(5, -1), [f"{row}" for row in range(5)], encoder={}, source=source
    )
    client = client_of(service_of(tmp_path / "a.h5", with_encoder=False))
    assert {hit["class"] for hit in client.get("/search?id=3").json()["hits"]} == {None}
    assert "not available" in sentence(client.get("/thumbnails/3"), 404)
    assert 'id="class"' not in client.get("/").text


def test_the_api_is_described_and_nothing_is_loaded_from_elsewhere(client):
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/gallery", "/gallery/images", "/search", "/embed", "/thumbnails/{row}"}
    assert set(described["paths"]["/search"]) == {"get", "post"}
    error = described["paths"]["/search"]["post"]["responses"]["422"]["content"]["application/json"]["schema"]
    assert error["$ref"].endswith("/Error")
    page = client.get("/").text
    assert "//" not in page.replace("<!doctype html>", "")
    assert "<b>cat" not in page and "&lt;b&gt;cat" in page
    for name in ("search.js", "search.css"):
        assert client.get(f"/page/{name}").status_code == 200


def run_guard(guard, messages, headers=()):
    """The status of the answer to a POST whose body arrives in these messages."""
    sent, waiting = [], iter(messages)

    async def receive():
        message = next(waiting, None)
        if message is None:
            await asyncio.sleep(60)
        return message

    async def send(message):
        sent.append(message)

    path = {"path": "/embed", "raw_path": b"/embed", "query_string": b"", "root_path": ""}
    protocol = {"type": "http", "method": "POST", "scheme": "http", "http_version": "1.1"}
    scope = {**protocol, **path, "headers": [(b"host", b"localhost"), *headers]}
    with ThreadPoolExecutor(1) as pool:  # the main thread may have the loop of a browser's driver
        pool.submit(lambda: asyncio.run(guard(scope, receive, send))).result()
    return sent[0]["status"], sent[1]["body"].decode()


FORM = ((b"content-type", b"multipart/form-data; boundary=x"),)


def test_an_upload_without_a_length_is_stopped_at_the_limit(client):
    guard = client.app
    chunk = {"type": "http.request", "body": bytes(100_000), "more_body": True}
    start = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    status, text = run_guard(guard, [{**chunk, "body": start}, *[chunk] * 50], FORM)
    assert status == 413 and "larger than 0.2 MB" in text
    assert guard.counts.open == 0


def test_an_upload_that_never_ends_is_stopped(service_of, client_of, gallery_file):
    service = service_of(gallery_file, with_encoder=False)
    guard = client_of(service, upload_timeout=0.2).app
    status, text = run_guard(guard, [{"type": "http.request", "body": b"--x\r\n", "more_body": True}], FORM)
    assert status == 408 and "longer than 0.2 seconds" in text


def test_too_many_requests_at_a_time_are_told_to_wait(client):
    guard = Guard(client.app.app, frozenset(), 1000, 1)
    guard.counts.open = 256
    status, text = run_guard(guard, [], FORM)
    assert status == 503 and "try again" in text


def test_features_of_an_upload_that_are_not_finite(service_of, client_of, gallery_file, dogs, monkeypatch):
    service = service_of(gallery_file)
    monkeypatch.setattr(service.embedder, "_model", lambda pixels: [np.full((len(pixels), 512), np.nan, np.float32)])
    assert "not finite" in sentence(client_of(service).post("/embed", files=uploaded(dogs[0])), 422)


def test_features_do_not_depend_on_what_is_computed_together(service_of, gallery_file, dogs):
    from tasks.serve.embedder import prepared_image

    service = service_of(gallery_file, limits=Limits(10**6, 10**6))
    images = [prepared_image(path.read_bytes(), service.embedder.preprocessing, 1e6) for path in dogs]
    alone = [service.embedder.submit(image).result() for image in images]
    together = [future.result() for future in [service.embedder.submit(image) for image in images * 3]]
    np.testing.assert_allclose(together, alone * 3, rtol=1e-6, atol=1e-6)
