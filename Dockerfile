# syntax=docker/dockerfile:1
# The image for those who build with Docker. `make image` makes the same from
# .ko.yaml, without Docker; a test compares the two.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG TARGETOS TARGETARCH VERSION
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags "-s -w -X main.release=$VERSION" -o /dockbell ./cmd/dockbell

# No shell, no packages: certificates of authorities, and a user.
FROM gcr.io/distroless/static-debian13:nonroot
COPY --from=build /dockbell /usr/local/bin/dockbell
USER 65532:65532
EXPOSE 8080 8081
ENTRYPOINT ["/usr/local/bin/dockbell"]
