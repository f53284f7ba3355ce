package source

import (
	"regexp"
	"strings"
)

// manifest is what a sender tells about the manifest of an event, each part
// of it "" when the sender does not tell. A registry stores anything in the
// form of an image: whether it can be deployed shows only in these.
type manifest struct {
	tag          string
	mediaType    string
	artifactType string

	// parts are the media types of what the manifest refers to: config and
	// layers of an image, manifests of an index.
	parts []string
}

// ignored says why the manifest can start nothing; "" for an image, and for
// what nothing tells from an image.
func (m manifest) ignored() string {
	if reason := attachedByTag(m.tag); reason != "" {
		return reason
	}
	if reason := notImage(m.artifactType); reason != "" {
		return reason
	}
	if len(m.parts) > 0 {
		// Signatures, and the attestations that BuildKit pushes beside each
		// platform, have the config of an image: only their layers tell.
		if reason := attachedLayers(m.parts[1:]); reason != "" {
			return reason
		}
		if reason := notImage(m.parts[0]); reason != "" {
			return reason
		}
	}
	mediaType := bare(m.mediaType)
	if manifestTypes[mediaType] {
		return ""
	}
	if isBlob(mediaType) {
		return "blob"
	}
	return notImage(mediaType)
}

// manifestTypes are the media types of images and of lists of images: OCI
// image specification 1.1, "Media Types"; Docker "Image Manifest Version 2,
// Schema 2" and Schema 1, whose unsigned form is plain JSON.
var manifestTypes = map[string]bool{
	"": true,
	"application/vnd.oci.image.manifest.v1+json":                true,
	"application/vnd.oci.image.index.v1+json":                   true,
	"application/vnd.docker.distribution.manifest.v2+json":      true,
	"application/vnd.docker.distribution.manifest.list.v2+json": true,
	"application/vnd.docker.distribution.manifest.v1+json":      true,
	"application/vnd.docker.distribution.manifest.v1+prettyjws": true,
	"application/json": true,
}

// isBlob knows the configs and layers of images. Old Docker clients pushed
// configs as octet-stream, and a registry reports every blob as that.
func isBlob(mediaType string) bool {
	if mediaType == "application/octet-stream" || mediaType == "application/vnd.oci.empty.v1+json" {
		return true
	}
	for _, prefix := range []string{
		"application/vnd.oci.image.config.",
		"application/vnd.oci.image.layer.",
		"application/vnd.docker.container.image.",
		"application/vnd.docker.image.rootfs.",
	} {
		if strings.HasPrefix(mediaType, prefix) {
			return true
		}
	}
	return false
}

// notImage judges the type of a config or an artifact. New types come up all
// the time (charts, policies, models, signatures of the next tool), so only
// what images have passes: OCI image specification 1.1, "Guidelines for
// Artifact Usage".
func notImage(mediaType string) string {
	mediaType = bare(mediaType)
	if manifestTypes[mediaType] || isBlob(mediaType) && mediaType != "application/vnd.oci.empty.v1+json" {
		return ""
	}
	if reason := attachment(mediaType); reason != "" {
		return reason
	}
	return "artifact"
}

// attachedLayers is why a manifest with these layers is attached to an image
// rather than one itself: all layers are, for an image may well hold a file of
// any type beside its file system.
func attachedLayers(mediaTypes []string) string {
	reason := ""
	for _, mediaType := range mediaTypes {
		if reason = attachment(bare(mediaType)); reason == "" {
			return ""
		}
	}
	return reason
}

// attachment tells what is attached to images by words in the media types of
// cosign, Notation, in-toto, BuildKit, SPDX and CycloneDX.
func attachment(mediaType string) string {
	for _, a := range []struct{ word, reason string }{
		{"simplesigning", "signature"},
		{"signature", "signature"},
		{"cosign.artifact.sig", "signature"},
		{"sigstore.bundle", "signature"},
		{"in-toto", "attestation"},
		{"attestation", "attestation"},
		{"dsse", "attestation"},
		{"spdx", "sbom"},
		{"cyclonedx", "sbom"},
		{"sbom", "sbom"},
		{"syft", "sbom"},
	} {
		if strings.Contains(mediaType, a.word) {
			return a.reason
		}
	}
	return ""
}

// A digest with a dash in place of the colon is the tag under which a client
// attaches something to that digest: alone it is the list of referrers (OCI
// distribution specification 1.1, "Referrers Tag Schema"), with a suffix it is
// what cosign and others attach.
var attachedTag = regexp.MustCompile(`^(?:sha256-[0-9a-f]{64}|sha512-[0-9a-f]{64,128})(\..*)?$`)

func attachedByTag(tag string) string {
	m := attachedTag.FindStringSubmatch(tag)
	if m == nil {
		return ""
	}
	switch m[1] {
	case "":
		return "referrers"
	case ".sig":
		return "signature"
	case ".att":
		return "attestation"
	case ".sbom":
		return "sbom"
	}
	return "artifact"
}

// bare is a media type without parameters, in lower case.
func bare(mediaType string) string {
	mediaType, _, _ = strings.Cut(mediaType, ";")
	return strings.ToLower(strings.TrimSpace(mediaType))
}
