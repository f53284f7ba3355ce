package source

import "testing"

func FuzzParseSWR(f *testing.F) { fuzzParse(f, "huawei-swr") }
