#!/bin/sh
# The tests that need a GPU, the speed of pretraining, and the headline; a failure of one does not stop the next. Tables go to
# benchmarks/results.
#
#   sh benchmarks/on_a_gpu.sh CIFAR10_DIR RUN_FOLDER [SECONDS of the headline] [EPOCHS]
#
# Given again with the same RUN_FOLDER and ONLY=headline the pretraining goes on where it was.
data=$1 run=$2 seconds=${3:-300} epochs=${4:-200}
if [ "$ONLY" != headline ]; then
    python -m pytest -q tests/test_cuda.py tests/pretrain/test_health.py::test_the_gpu_agrees \
        tests/pretrain/test_views.py::test_views_on_a_gpu_are_the_same
    python benchmarks/pretrain_speed.py
fi
timeout --foreground -s TERM "$seconds" python benchmarks/cifar10_headline.py \
    --data "cifar10:$data" --out "$run" --epochs "$epochs"
echo "exit status of the headline: $? (124: stopped in time, give the command again)"
tail -n 20 benchmarks/results/pretrain_speed_cuda.md benchmarks/results/cifar10_"$epochs"_epochs.md
