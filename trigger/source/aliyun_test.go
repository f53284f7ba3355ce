package source

import "testing"

func TestNotAliyun(t *testing.T) {
	refused(t, "aliyun", map[string]string{
		"empty object":        `{}`,
		"a list":              `[]`,
		"no repository":       `{"push_data": {"tag": "1"}}`,
		"no push_data":        `{"repository": {"repo_full_name": "a/b"}}`,
		"no name":             `{"push_data": {"tag": "1"}, "repository": {}}`,
		"bad tag":             `{"push_data": {"tag": "$(id)"}, "repository": {"repo_full_name": "a/b"}}`,
		"event, no data":      `{"specversion": "1.0", "source": "acs.cr", "type": "cr:Artifact:PushCompleted"}`,
		"event, data is text": `{"specversion": "1.0", "source": "acs.cr", "type": "cr:Artifact:PushCompleted", "data": "x"}`,
	})
}

func FuzzParseAliyun(f *testing.F) { fuzzParse(f, "aliyun") }
