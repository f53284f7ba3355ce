package secret

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
)

func TestReference(t *testing.T) {
	for text, want := range map[string]Ref{
		"{env: TOKEN}":               {Env: "TOKEN"},
		"{file: /run/secrets/token}": {File: "/run/secrets/token"},
		"file: token":                {File: "token"},
	} {
		var got Ref
		if err := yaml.Unmarshal([]byte(text), &got); err != nil || got != want || got.IsZero() {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	if !(Ref{}).IsZero() {
		t.Error("nothing is not zero")
	}
}

func TestRefused(t *testing.T) {
	const reference = "line 1: a secret is a reference, {env: NAME} or {file: PATH}, never the value itself"
	for text, want := range map[string]string{
		"hunter2":                      reference,
		"[hunter2]":                    reference,
		"{}":                           reference,
		"{env: hunter2, file: a}":      reference,
		"{value: hunter2}":             `line 1: unknown key "value" in a secret; it is {env: NAME} or {file: PATH}`,
		"{vault: {path: hunter2}}":     `line 1: unknown key "vault" in a secret; it is {env: NAME} or {file: PATH}`,
		"{env: [hunter2]}":             "line 1: env of a secret must be a name",
		"{env: ''}":                    "line 1: env of a secret must be a name",
		"{file: }":                     "line 1: file of a secret must be a name",
		"{file: ~}":                    "line 1: file of a secret must be a name",
		"# in front\n\n{nev: hunter2}": `line 3: unknown key "nev" in a secret; it is {env: NAME} or {file: PATH}`,
	} {
		var got Ref
		err := yaml.Unmarshal([]byte(text), &got)
		if err == nil || !strings.Contains(err.Error(), want) || !got.IsZero() {
			t.Errorf("%s: %v, %v; want %s", text, got, err, want)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the value is shown: %v", text, err)
		}
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) Ref {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return Ref{File: path}
	}
	t.Setenv("SECRET_SET", " hunter2 ")
	t.Setenv("SECRET_EMPTY", "")
	tests := []struct {
		name      string
		ref       Ref
		want      string
		fault     string
		repeating bool
	}{
		{"environment", Ref{Env: "SECRET_SET"}, " hunter2 ", "", false},
		{"file", write("plain", "hunter2"), "hunter2", "", false},
		{"file with a newline", write("unix", "hunter2\n"), "hunter2", "", false},
		{"file of Windows", write("windows", "hunter2\r\n"), "hunter2", "", false},
		{"file of two lines", write("two", "hunter2\nhunter3\n"), "hunter2\nhunter3", "", false},
		{"file with spaces", write("spaces", " hunter2 \n"), " hunter2 ", "", false},
		{"environment empty", Ref{Env: "SECRET_EMPTY"}, "", "environment variable SECRET_EMPTY is not set", true},
		{"environment not set", Ref{Env: "SECRET_ABSENT"}, "", "environment variable SECRET_ABSENT is not set", true},
		{"file empty", write("empty", "\n\n"), "", "secret file " + filepath.Join(dir, "empty") + " is empty", true},
		{"file absent", Ref{File: filepath.Join(dir, "absent")}, "", "secret file: open " + filepath.Join(dir, "absent") + ": no such file or directory", true},
		{"file is a folder", Ref{File: dir}, "", "secret file: read " + dir + ": is a directory", true},
		{"nothing", Ref{}, "", "no secret is given: name one with {env: NAME} or {file: PATH}", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.ref.Read()
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if (err == nil) != (tt.fault == "") || err != nil && err.Error() != tt.fault {
				t.Errorf("got %v, want %q", err, tt.fault)
			}
			if _, again := trigger.Retryable(err); again != tt.repeating {
				t.Errorf("worth another try: %t", again)
			}
		})
	}
}

func TestRotatedFileCountsAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	ref := Ref{File: path}
	for _, want := range []string{"first", "second"} {
		if err := os.WriteFile(path, []byte(want+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := ref.Read(); got != want || err != nil {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
}

func TestNeverShowsTheValue(t *testing.T) {
	t.Setenv("SECRET_SET", "hunter2")
	for _, tt := range []struct {
		ref  Ref
		want string
	}{
		{Ref{Env: "SECRET_SET"}, "<secret env SECRET_SET>"},
		{Ref{File: "/run/token"}, "<secret file /run/token>"},
		{Ref{}, "<no secret>"},
	} {
		if got := tt.ref.String(); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			if s := fmt.Sprintf(verb, tt.ref); strings.Contains(s, "hunter2") {
				t.Errorf("%s shows %s", verb, s)
			}
		}
	}
}
