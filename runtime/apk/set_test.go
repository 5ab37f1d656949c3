package apk_test

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/runtime/apk"
)

func TestCheckSet(t *testing.T) {
	signed := func(by byte) []apk.Signer {
		return []apk.Signer{{Scheme: apk.SchemeV2, Certificate: apk.Digest{by}}, {Scheme: apk.SchemeV1, Certificate: apk.Digest{0xff}}}
	}
	one := func(change func(*apk.Info)) *apk.Info {
		i := &apk.Info{Package: "com.example", VersionCode: 7, Signers: signed(1)}
		if change != nil {
			change(i)
		}
		return i
	}
	split := func(name string) *apk.Info { return one(func(i *apk.Info) { i.Split = name }) }
	base := one(nil)
	for name, test := range map[string]struct {
		set  []*apk.Info
		want string // in the error; empty for none
	}{
		"base":            {[]*apk.Info{base}, ""},
		"base and splits": {[]*apk.Info{split("config.de"), base, split("feature")}, ""},
		"nothing":         {nil, "no APK is given"},
		"no base":         {[]*apk.Info{split("config.de")}, "only splits of com.example are given"},
		"two bases":       {[]*apk.Info{base, one(nil)}, "two base APKs of com.example"},
		"two apps":        {[]*apk.Info{base, one(func(i *apk.Info) { i.Package = "com.other" })}, "of com.example and com.other"},
		"split twice":     {[]*apk.Info{base, split("a"), split("a")}, "split a is given twice"},
		"package":         {[]*apk.Info{base, one(func(i *apk.Info) { i.Split, i.Package = "a", "com.other" })}, "split a is of package com.other"},
		"version":         {[]*apk.Info{base, one(func(i *apk.Info) { i.Split, i.VersionCode = "a", 8 })}, "split a has version code 8, the base 7"},
		"signer":          {[]*apk.Info{base, one(func(i *apk.Info) { i.Split, i.Signers = "a", signed(2) })}, "split a is signed by 0200"},
		"not signed":      {[]*apk.Info{base, one(func(i *apk.Info) { i.Split, i.Signers = "a", nil })}, "split a is signed by nobody"},
		"needs splits":    {[]*apk.Info{one(func(i *apk.Info) { i.RequiresSplits = true })}, "does not work alone"},
		"has splits":      {[]*apk.Info{one(func(i *apk.Info) { i.RequiresSplits = true }), split("a")}, ""},
		"needs a type": {[]*apk.Info{one(func(i *apk.Info) { i.RequiredSplitTypes = []string{"base__abi", "base__density"} }),
			one(func(i *apk.Info) { i.Split, i.SplitTypes = "config.arm64_v8a", []string{"base__abi"} })}, `a split of type "base__density"`},
		"has its type": {[]*apk.Info{one(func(i *apk.Info) { i.RequiredSplitTypes = []string{"base__abi"} }),
			one(func(i *apk.Info) { i.Split, i.SplitTypes = "config.arm64_v8a", []string{"base__abi"} })}, ""},
	} {
		err := apk.CheckSet(test.set)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.want != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: %v, want an invalid argument with %q", name, err, test.want)
		}
	}
}
