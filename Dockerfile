# The command line in a container. Continuous integration does not build it: tests only
# check that what it names is there.
#
#     docker build -t spectralgpt .
#     docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/data" spectralgpt info scene.tif
#
# pip takes PyTorch with CUDA's libraries, some gigabytes more. For processors alone, give
# the index of CPU builds that pytorch.org names: --build-arg TORCH_INDEX=ADDRESS
FROM python:3.12-slim

ARG TORCH_INDEX=
ARG EXTRAS=datasets,export,search,train,vector,view

# What rasterio's wheel leaves to the system.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libexpat1 \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision

WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir ".[$EXTRAS]"

# Files that it makes belong to whom -u names, who may keep downloads and caches here.
RUN useradd --create-home spectralgpt && chmod 777 /home/spectralgpt
ENV HOME=/home/spectralgpt
USER spectralgpt
WORKDIR /data
ENTRYPOINT ["spectralgpt"]
CMD ["--help"]
