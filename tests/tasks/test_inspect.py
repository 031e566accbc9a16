def test_every_key_is_taken_or_left_for_a_reason(record, checkpoint):
    import torch

    keys = set(torch.load(checkpoint, weights_only=True)["state_dict"])
    metrics = record("inspect", checkpoint)["metrics"]
    assert set(metrics["taken"]) | set(metrics["left"]) == keys
    assert not set(metrics["taken"]) & set(metrics["left"])
    assert all(metrics["left"].values())
    assert metrics["taken"]["module.encoder.layer1.0.conv1.weight"] == "layer1.0.conv1.weight"
    assert any("fc." in key for key in metrics["left"])


def test_the_table_names_the_file_and_what_it_is(call, checkpoint):
    shown = call("inspect", checkpoint)
    assert shown.exit_code == 0
    for text in ("resnet18, cifar stem", "weights sha256", "taken (", "left (", "512"):
        assert text in shown.stdout
