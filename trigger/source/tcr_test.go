package source

import "testing"

func FuzzParseTCR(f *testing.F) { fuzzParse(f, "tencent-tcr") }
