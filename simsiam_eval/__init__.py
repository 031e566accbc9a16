"""What pretraining and the tasks stand on."""

import os

# Torch's threads spin while they wait for each other: beside another busy process that made pretraining on two cores four
# times slower (34 images/s against 146 with this). Read when torch is imported, which is later.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
