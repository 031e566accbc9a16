import csv
import io
import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def head(record, pipeline, checkpoint, tmp_path_factory):
    """A head on layer3, scaled, and the record of its training on feature files."""
    out = tmp_path_factory.mktemp("head")
    for split in ("train", "test"):
        data = ("--checkpoint", checkpoint, "--data", f"digits#{split}", "--layer", "layer3", "--flip-average")
        record("extract", *data, "--out", out / f"{split}.h5")
    sets = ("--train", out / "train.h5", "--test", out / "test.h5", "--preset", "small", "--lr", 0.3, "--epochs", 20)
    made = record("linear-eval", *sets, "--scaling", "standard", "--save-head", out / "head.safetensors")
    return out / "head.safetensors", made


def test_predictions_are_those_of_linear_eval(record, head, checkpoint, tmp_path):
    path, made = head
    out = tmp_path / "classes.csv"
    predicted = record("predict", "--checkpoint", checkpoint, "--head", path, "--data", "digits#test", "--out", out)
    assert predicted["metrics"]["images"] == predicted["metrics"]["labeled"] == 600
    assert predicted["metrics"]["top1"] == pytest.approx(made["metrics"]["top1"], abs=1 / 600)
    assert sum(predicted["metrics"]["by_class"].values()) == 600
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == 600
    assert np.mean([row["class"] == row["label"] for row in rows]) == pytest.approx(predicted["metrics"]["top1"])
    assert all(0.1 <= float(row["probability"]) <= 1 for row in rows)


def test_a_folder_without_labels_and_with_an_unreadable_image(call, record, head, checkpoint, tmp_path):
    for number in range(3):
        Image.new("RGB", (9, 9), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    arguments = ("predict", "--checkpoint", checkpoint, "--head", head[0], "--data", tmp_path)
    metrics = record(*arguments, "--out", tmp_path / "c.csv", "--max-unreadable", 0.5)["metrics"]
    assert (metrics["images"], metrics["unreadable"]) == (2, 1)
    assert "top1" not in metrics
    assert next(csv.reader((tmp_path / "c.csv").open())) == ["id", "class", "probability"]
    result = call(*arguments, "--strict", "--out", tmp_path / "d.csv")
    assert result.exit_code == 1 and "1.png (row 1)" in result.stderr
    assert not (tmp_path / "d.csv").exists()
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    nothing = call(*arguments)
    assert nothing.exit_code == 1 and "None of the 3 images" in nothing.stderr


def test_classes_of_the_same_name_stay_apart_and_unknown_classes_are_counted(record, checkpoint, tmp_path):
    """Like ImageNet's two cranes: a number in brackets tells them apart, in the head and in the comparison with labels."""
    pixels, labels = np.random.default_rng(0).integers(0, 256, (90, 8, 8, 3), np.uint8), np.arange(90) % 3
    pixels[labels == 1] //= 4
    pixels[labels == 2] //= 16
    known, more = tmp_path / "known.parquet", tmp_path / "more.parquet"
    for path, numbers in ((known, labels), (more, np.where(np.arange(90) < 10, 3, labels))):
        write_labeled(path, pixels, numbers, ["crane", "owl", "crane", "emu"][: numbers.max() + 1])
    sets = ("--train", f"parquet:{known}", "--test", f"parquet:{known}", "--checkpoint", checkpoint)
    head = tmp_path / "head.safetensors"
    made = record("linear-eval", *sets, "--preset", "logistic", "-C", 1, "--save-head", head)["metrics"]
    assert list(made["per_class"]) == ["crane (0)", "owl", "crane (2)"]
    given = ("--checkpoint", checkpoint, "--head", head)
    predicted = record("predict", *given, "--data", f"parquet:{known}")["metrics"]
    assert (predicted["top1"], predicted["of_unknown_classes"]) == (made["top1"], 0)
    assert set(predicted["by_class"]) <= set(made["per_class"])
    other = record("predict", *given, "--data", f"parquet:{more}")["metrics"]
    assert other["of_unknown_classes"] == 10 and other["top1"] <= 80 / 90


def write_labeled(path, pixels, labels, names):
    """A Parquet file as Hugging Face's datasets are: PNG bytes, and class names in the schema."""
    import pyarrow
    import pyarrow.parquet

    images = []
    for image in pixels:
        Image.fromarray(image).save(buffer := io.BytesIO(), "PNG")
        images.append({"bytes": buffer.getvalue(), "path": None})
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pyarrow.table({"image": images, "label": labels})
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path)


def test_a_head_for_another_precision_is_rejected(call, head, checkpoint):
    given = ("--checkpoint", checkpoint, "--head", head[0], "--data", "digits", "--precision", "bf16")
    result = call("predict", *given)
    assert result.exit_code == 1 and "use --precision float32" in result.stderr


def test_a_head_for_another_encoder_is_rejected(call, record, head, small, tmp_path):
    other = record("pretrain", *small, "--epochs", 0, "--seed", 8, "--out", tmp_path / "run")["files"]["checkpoint"]
    result = call("predict", "--checkpoint", other, "--head", head[0], "--data", "digits")
    assert result.exit_code == 1
    assert "is not the encoder of" in result.stderr and "Traceback" not in result.output


def test_a_file_that_is_not_a_head_is_rejected(call, head, checkpoint, tmp_path):
    from safetensors.numpy import save_file

    broken = tmp_path / "head.safetensors"
    for content, message in (
        (None, "not found"),
        (b"junk", "not a safetensors file"),
        ("foreign", "is not a head"),
    ):
        if content == "foreign":
            save_file({"weight": np.zeros((2, 3), np.float32)}, broken)
        elif content:
            broken.write_bytes(content)
        result = call("predict", "--checkpoint", checkpoint, "--head", broken, "--data", "digits")
        assert result.exit_code == 1 and message in result.stderr


def test_json_prints_only_the_record(call, head, checkpoint):
    result = call("predict", "--checkpoint", checkpoint, "--head", head[0], "--data", "digits#test", "--json")
    assert json.loads(result.stdout)["task"] == "predict"
