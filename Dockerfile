# The demo in a container:   docker build -t undistill . && docker run --rm -v "$PWD/runs:/work/runs" undistill
# PIP_ARGS chooses another index, such as one of wheels without CUDA; PyPI's torch for Linux brings several GB of CUDA along.
FROM python:3.11-slim
ARG PIP_ARGS=""
ARG COMMIT=""
ENV UNDISTILL_COMMIT=$COMMIT OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
COPY pyproject.toml README.md LICENSE constraints.txt /src/
COPY src /src/src
RUN pip install --no-cache-dir $PIP_ARGS -c /src/constraints.txt /src
WORKDIR /work
ENTRYPOINT ["undistill"]
CMD ["demo", "-o", "runs/demo"]
