#!/bin/sh
# Run the benchmarks and tests that need a GPU: headline, speed, tests. If one fails, the next still runs.
# Tables are written to benchmarks/results.
#
#   sh benchmarks/on_a_gpu.sh CIFAR10_DIR RUN_FOLDER [HEADLINE_SECONDS] [EPOCHS]
#
# Times on one H200 with 16 cores: headline 1.33 s per epoch (18 minutes for 800 epochs), about a minute of
# compilation and evaluation; pretrain_speed.py --cases cifar 80 s; gpu_tasks.py about 80 s; tests a few
# minutes (with pytest-xdist: TESTS="-n 6").
# Run it again with the same RUN_FOLDER to resume the pretraining. ONLY=headline, ONLY=speed or ONLY=tests runs one part.
data=$1 run=$2 seconds=${3:-400} epochs=${4:-200}
if [ "${ONLY:-headline}" = headline ]; then
    timeout --foreground -s TERM "$seconds" python benchmarks/cifar10_headline.py \
        --data "cifar10:${data:?CIFAR10_DIR is missing}" --out "${run:?RUN_FOLDER is missing}" --epochs "$epochs" --knn-every 40
    echo "headline exit status: $? (124: time limit reached, run the command again to resume)"
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
