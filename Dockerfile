# The command `transpose` in a container, for processors or, with TORCH_BACKEND, for GPUs:
#   docker build -t transpose .
#   docker build -t transpose --build-arg TORCH_BACKEND=cu128 .      and run it with --gpus all
#   docker run --rm -v "$PWD:/work" transpose predict photos --model tp_r_a4
# It runs as user 1000, who must be allowed to write to the mounted folder; else add --user "$(id -u):$(id -g)".
FROM python:3.13-slim-bookworm

# OpenCV's system libraries.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

# What PyTorch computes with: cpu, or a version of CUDA. uv knows where its wheels are.
ARG TORCH_BACKEND=cpu
ARG EXTRAS=train,explain,video
COPY . /source
RUN pip install --no-cache-dir uv \
    && uv pip install --system --no-cache --torch-backend="$TORCH_BACKEND" "/source[$EXTRAS]" \
    && rm -rf /source

# Weights are downloaded to a folder that any user may write to.
ENV HOME=/home/transpose
RUN useradd --uid 1000 --create-home --home-dir "$HOME" transpose && chmod 777 "$HOME"
USER transpose
WORKDIR /work
ENTRYPOINT ["transpose"]
CMD ["--help"]
