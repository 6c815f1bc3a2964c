# Turntable with Blender, for machines with or without an NVIDIA GPU:
#   docker build -t turntable .
#   docker run --rm --gpus all -v "$PWD/demo:/turntable/demo" turntable          # the demo
#   docker run --rm --gpus all -v /data:/data turntable python -m render.objaverse --uids /data/list.txt --gpus 1 --out /data/captures
# torch and Blender bring their own CUDA libraries; the host's driver comes in through the NVIDIA container toolkit.
FROM python:3.11-slim-bookworm

ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics \
    PATH=/turntable/.venv/bin:$PATH

WORKDIR /turntable
COPY system-packages.txt .
RUN apt-get update \
    && apt-get install -y --no-install-recommends make $(cat system-packages.txt) \
    && rm -rf /var/lib/apt/lists/*

# Dependencies first: a change of code does not install them again.
COPY setup.cfg pyproject.toml constraints.txt Makefile LICENSE README.md ./
COPY turntable turntable
COPY render/__init__.py render/system.py render/
RUN make setup PYTHON=python3.11

COPY . .
CMD ["make", "demo"]
