#!/bin/sh
# What only a GPU can show, in the order of what it is worth: the headline, the speeds, the tests. A failure of one does not stop
# the next. Tables go to benchmarks/results.
#
#   sh benchmarks/on_a_gpu.sh CIFAR10_DIR RUN_FOLDER [SECONDS of the headline] [EPOCHS]
#
# On one H200 with 16 cores: an epoch of the headline 1.33 s, compilation and evaluation about a minute (800 epochs by the clock
# of the log: 18 minutes); pretrain_speed.py --cases cifar 80 s; gpu_tasks.py some 80 s; the tests some minutes (with
# pytest-xdist: TESTS="-n 6"), their names printed as they end. Given again with the same RUN_FOLDER the pretraining goes on where
# it was. ONLY=headline, speed or tests does one of them.
data=$1 run=$2 seconds=${3:-400} epochs=${4:-200}
if [ "${ONLY:-headline}" = headline ]; then
    timeout --foreground -s TERM "$seconds" python benchmarks/cifar10_headline.py \
        --data "cifar10:${data:?CIFAR10_DIR is missing}" --out "${run:?RUN_FOLDER is missing}" --epochs "$epochs" --knn-every 40
    echo "exit status of the headline: $? (124: stopped in time, give the command again)"
fi
if [ "${ONLY:-speed}" = speed ]; then
    python benchmarks/pretrain_speed.py --cases cifar --repeats 1 --steps 32
    python benchmarks/pretrain_speed.py --cases imagenet --repeats 1 --steps 32
    python benchmarks/gpu_tasks.py --images 6144
fi
if [ "${ONLY:-tests}" = tests ]; then
    # shellcheck disable=SC2086
    python -m pytest -vv $TESTS tests/test_cuda.py tests/pretrain/test_health.py::test_the_gpu_agrees \
        tests/pretrain/views/test_augment.py::test_views_on_a_gpu_are_the_same
fi
