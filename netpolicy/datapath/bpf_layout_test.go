package datapath

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf/btf"

	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// The types that Go reads and writes have the sizes and offsets that the compiler gave those of layout.h, and those that other packages
// rely on.
func TestLayout(t *testing.T) {
	spec, err := loadBpf()
	if err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]uintptr{
		"phone": unsafe.Sizeof(bpfPhone{}), "cell": unsafe.Sizeof(policy.Cell{}), "flow_key": unsafe.Sizeof(bpfFlowKey{}), "flow": unsafe.Sizeof(bpfFlow{}),
		"forward": unsafe.Sizeof(bpfForward{}), "name_key": unsafe.Sizeof(bpfNameKey{}), "name_value": unsafe.Sizeof(bpfNameValue{}),
		"client_key": unsafe.Sizeof(bpfClientKey{}), "client": unsafe.Sizeof(bpfClient{}), "denial_key": unsafe.Sizeof(bpfDenialKey{}),
		"denial": unsafe.Sizeof(bpfDenial{}), "event": unsafe.Sizeof(bpfEvent{}), "verdict": unsafe.Sizeof(bpfVerdict{}), "counters": unsafe.Sizeof(bpfCounters{}),
		"settings": unsafe.Sizeof(bpfSettings{}),
	} {
		var s *btf.Struct
		if err := spec.Types.TypeByName(name, &s); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if uintptr(s.Size) != size {
			t.Errorf("struct %s has %d bytes in C, %d in Go", name, s.Size, size)
		}
	}
	for name, pair := range map[string][2]uintptr{
		"phone.ip4": {unsafe.Offsetof(bpfPhone{}.Ip4), 16}, "phone.mac": {unsafe.Offsetof(bpfPhone{}.Mac), 80}, "phone.prefix4": {unsafe.Offsetof(bpfPhone{}.Prefix4), 12},
		"flow.rule": {unsafe.Offsetof(bpfFlow{}.Rule), 32}, "flow.packets": {unsafe.Offsetof(bpfFlow{}.Packets), 40}, "name_value.lease": {unsafe.Offsetof(bpfNameValue{}.Lease), 0},
		"event.denial": {unsafe.Offsetof(bpfEvent{}.Denial), 112}, "denial_key.class": {unsafe.Offsetof(bpfDenialKey{}.Class), 25}, "verdict.rule": {unsafe.Offsetof(bpfVerdict{}.Rule), 4},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s is at %d; want %d", name, pair[0], pair[1])
		}
	}
	if n := len(bpfNameValue{}.Lease); n != policy.MaxNames {
		t.Errorf("an address has %d names here, %d in policies", n, policy.MaxNames)
	}
	if policy.FlagAllow != bpfPolicyFlagPOLICY_ALLOW || policy.FlagNames != bpfPolicyFlagPOLICY_NAMES {
		t.Error("the flags of policies are others than those of layout.h")
	}
	if uint32(policy.Egress) != uint32(bpfDirectionEGRESS) || uint32(policy.Ingress) != uint32(bpfDirectionINGRESS) {
		t.Error("the directions of policies are others than those of layout.h")
	}
}

// Nothing in the object tells where it was compiled, and it says under which licences it is.
func TestObject(t *testing.T) {
	for _, word := range []string{"/work", "/home", "/tmp", "/root", "/usr"} {
		if strings.Contains(string(_BpfBytes), word) {
			t.Errorf("the object holds %q", word)
		}
	}
	spec, err := loadBpf()
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range spec.Programs {
		if p.License != "Dual BSD/GPL" {
			t.Errorf("%s has the licence %q", name, p.License)
		}
	}
}

func TestSources(t *testing.T) {
	if _, ok := vm.Guest(); ok {
		t.Skip("the sources stay on the host")
	}
	sources, err := filepath.Glob("bpf/*.[ch]")
	if err != nil || len(sources) == 0 {
		t.Fatal(sources, err)
	}
	first := regexp.MustCompile(`^/\* SPDX-License-Identifier: \(GPL-2\.0-only OR BSD-2-Clause\) \*/\n`)
	for _, path := range sources {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !first.Match(text) {
			t.Errorf("%s does not begin with its licences", path)
		}
	}
}
