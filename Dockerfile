# The one program in an image: `gaffer master`, `gaffer worker` and all commands.
ARG RUST_IMAGE=rust:1.95-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked --package gaffer \
    && mkdir -p /made/data \
    && cp target/release/gaffer /made/gaffer

# Nothing is run in this stage, so any base with glibc will do; a worker needs the tools that its jobs on the host use.
FROM ${RUNTIME_IMAGE}
COPY --from=build /made/gaffer /usr/local/bin/gaffer
COPY --from=build --chown=10001:10001 /made/data /var/lib/gaffer
USER 10001:10001
ENV GAFFER_DATA_DIR=/var/lib/gaffer HOME=/var/lib/gaffer
VOLUME /var/lib/gaffer
EXPOSE 3000 8000 8080
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 CMD ["gaffer", "doctor", "master"]
ENTRYPOINT ["gaffer"]
CMD ["master"]
