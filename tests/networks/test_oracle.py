"""What only the context tells is learnt by the network that sees it, and by none that does not: context is used."""

import pytest
from made_oracle import ARMS, target_found, train_arm, write_oracle

FAST = {"encoder": "tu-mobilenetv3_small_050", "epochs": 2, "steps_per_epoch": 45, "batch_size": 4}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_oracle(tmp_path_factory.mktemp("oracle"), slides=4)


@pytest.mark.parametrize("name", list(ARMS))
def test_the_hook_learns_what_only_the_context_tells_and_no_control_does(cohort, tmp_path, name):
    found = target_found(train_arm(cohort, tmp_path / "c.pt", name, **FAST))
    if name == "hook":
        assert found["val_iou"] > 0.8 and found["found"] > 0.8 and found["false_alarms"] < 0.1, found
    else:  # of discs that look alike half are the target
        assert found["val_iou"] < 0.6, found
        assert found["false_alarms"] > 0.6 * found["found"], found
