def test_every_key_is_loaded_or_skipped_with_a_reason(record, checkpoint):
    import torch

    keys = set(torch.load(checkpoint, weights_only=True)["state_dict"])
    metrics = record("inspect", checkpoint)["metrics"]
    assert set(metrics["loaded"]) | set(metrics["skipped"]) == keys
    assert not set(metrics["loaded"]) & set(metrics["skipped"])
    assert all(metrics["skipped"].values())
    assert metrics["loaded"]["module.encoder.layer1.0.conv1.weight"] == "layer1.0.conv1.weight"
    assert any("fc." in key for key in metrics["skipped"])


def test_table_shows_what_the_file_contains(call, checkpoint):
    result = call("inspect", checkpoint)
    assert result.exit_code == 0
    for text in ("resnet18, cifar stem", "weights sha256", "loaded (", "skipped (", "512"):
        assert text in result.stdout
