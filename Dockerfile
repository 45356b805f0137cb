# A server of one model: `docker build -t chatglm . && docker run -p 8000:8000 -e CHATGLM_API_KEYS=... chatglm zai-org/chatglm3-6b`
ARG BASE=python:3.11-slim
FROM ${BASE}
# on a machine with an NVIDIA GPU leave the argument out: --build-arg TORCH_INDEX=
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /app
COPY . .
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} ".[serve]" \
    && useradd --create-home chatglm && install -d -o chatglm /home/chatglm/models /home/chatglm/cache
USER chatglm
ENV HF_HOME=/home/chatglm/models COOKBOOK_CACHE=/home/chatglm/cache
EXPOSE 8000
HEALTHCHECK --start-period=10m --interval=30s --timeout=5s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# any address but the machine's own needs a key: CHATGLM_API_KEYS
ENTRYPOINT ["chatglm", "serve", "--host", "0.0.0.0"]
CMD ["zai-org/chatglm3-6b"]
