package source

import (
	"strings"
	"testing"
)

func TestManifestIgnored(t *testing.T) {
	const (
		image   = "application/vnd.oci.image.manifest.v1+json"
		index   = "application/vnd.oci.image.index.v1+json"
		config  = "application/vnd.oci.image.config.v1+json"
		layer   = "application/vnd.oci.image.layer.v1.tar+gzip"
		empty   = "application/vnd.oci.empty.v1+json"
		inToto  = "application/vnd.in-toto+json"
		docker2 = "application/vnd.docker.distribution.manifest.v2+json"
	)
	digest := strings.Repeat("0a", 32)
	tests := []struct {
		name string
		m    manifest
		want string
	}{
		{"nothing told", manifest{tag: "1"}, ""},
		{"OCI image", manifest{mediaType: image, parts: []string{config, layer}}, ""},
		{"OCI image without layers", manifest{mediaType: image, parts: []string{config}}, ""},
		{"OCI index", manifest{mediaType: index, parts: []string{image, image}}, ""},
		{"OCI index of one", manifest{mediaType: index, parts: []string{image}}, ""},
		{"Docker image", manifest{mediaType: docker2, parts: []string{"application/vnd.docker.container.image.v1+json", "application/vnd.docker.image.rootfs.diff.tar.gzip"}}, ""},
		{"Docker image of an old client", manifest{mediaType: docker2, parts: []string{"application/octet-stream"}}, ""},
		{"Docker list", manifest{mediaType: "application/vnd.docker.distribution.manifest.list.v2+json", parts: []string{docker2}}, ""},
		{"Docker schema 1", manifest{mediaType: "application/vnd.docker.distribution.manifest.v1+prettyjws", parts: []string{"", ""}}, ""},
		{"Docker schema 1, unsigned", manifest{mediaType: "application/json"}, ""},
		{"with parameters", manifest{mediaType: image + "; charset=utf-8"}, ""},
		{"in another case", manifest{mediaType: strings.ToUpper(image)}, ""},
		{"image with an SBOM inside", manifest{mediaType: image, parts: []string{config, layer, "application/spdx+json"}}, ""},
		{"image with encrypted layers", manifest{mediaType: image, parts: []string{config, layer + "+encrypted"}}, ""},

		{"blob", manifest{mediaType: "application/octet-stream"}, "blob"},
		{"config", manifest{mediaType: config}, "blob"},
		{"layer", manifest{mediaType: layer}, "blob"},
		{"foreign layer", manifest{mediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}, "blob"},
		{"empty blob", manifest{mediaType: empty}, "blob"},

		{"chart", manifest{mediaType: image, parts: []string{"application/vnd.cncf.helm.config.v1+json", "application/vnd.cncf.helm.chart.content.v1.tar+gzip"}}, "artifact"},
		{"Docker plugin", manifest{mediaType: docker2, parts: []string{"application/vnd.docker.plugin.v1+json"}}, "artifact"},
		{"empty config", manifest{mediaType: image, parts: []string{empty, "text/plain"}}, "artifact"},
		{"artifact type", manifest{mediaType: image, artifactType: "application/vnd.example.policy", parts: []string{config}}, "artifact"},
		{"artifact manifest", manifest{mediaType: "application/vnd.cncf.oras.artifact.manifest.v1+json"}, "artifact"},
		{"unknown type", manifest{mediaType: "text/html"}, "artifact"},

		{"cosign layers", manifest{mediaType: image, parts: []string{config, "application/vnd.dev.cosign.simplesigning.v1+json"}}, "signature"},
		{"cosign bundle", manifest{mediaType: image, artifactType: "application/vnd.dev.sigstore.bundle.v0.3+json", parts: []string{empty}}, "signature"},
		{"Notation", manifest{mediaType: image, artifactType: "application/vnd.cncf.notary.signature"}, "signature"},
		{"Notation config", manifest{mediaType: image, parts: []string{"application/vnd.cncf.notary.signature", "application/jose+json"}}, "signature"},
		{"BuildKit attestation", manifest{mediaType: image, parts: []string{config, inToto, inToto}}, "attestation"},
		{"BuildKit attestation with a type", manifest{mediaType: image, artifactType: "application/vnd.docker.attestation.manifest.v1+json"}, "attestation"},
		{"attestation in an envelope", manifest{mediaType: image, parts: []string{config, "application/vnd.dsse.envelope.v1+json"}}, "attestation"},
		{"SPDX", manifest{mediaType: image, parts: []string{empty, "text/spdx+json"}}, "sbom"},
		{"CycloneDX", manifest{mediaType: image, parts: []string{config, "application/vnd.cyclonedx+json"}}, "sbom"},

		{"tag of a signature", manifest{tag: "sha256-" + digest + ".sig", mediaType: image, parts: []string{config, layer}}, "signature"},
		{"tag of an attestation", manifest{tag: "sha256-" + digest + ".att"}, "attestation"},
		{"tag of an SBOM", manifest{tag: "sha256-" + digest + ".sbom"}, "sbom"},
		{"tag of referrers", manifest{tag: "sha256-" + digest, mediaType: index}, "referrers"},
		{"tag of referrers, cut to 64", manifest{tag: "sha512-" + digest}, "referrers"},
		{"tag of something else", manifest{tag: "sha256-" + digest + ".0123.meta"}, "artifact"},
		{"tag of a signature, too short", manifest{tag: "sha256-" + digest[1:] + ".sig"}, ""},
		{"tag of a signature, longer", manifest{tag: "sha256-" + digest + "0.sig"}, ""},
		{"tag with an ordinary end", manifest{tag: "v1.sig"}, ""},
		{"tag with an ordinary beginning", manifest{tag: "sha256-abc"}, ""},
		{"tag around it", manifest{tag: "x-sha256-" + digest + ".sig"}, ""},
	}
	for _, tt := range tests {
		if got := tt.m.ignored(); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
