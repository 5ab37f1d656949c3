package appguard

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf/btf"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// The types that Go reads and writes have the sizes and offsets that the compiler gave those of layout.h.
func TestLayout(t *testing.T) {
	spec, err := loadBpf()
	if err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]uintptr{
		"phone": unsafe.Sizeof(bpfPhone{}), "name_key": unsafe.Sizeof(bpfNameKey{}), "denial_key": unsafe.Sizeof(bpfDenialKey{}), "denial": unsafe.Sizeof(bpfDenial{}),
		"event": unsafe.Sizeof(bpfEvent{}), "counters": unsafe.Sizeof(bpfCounters{}), "settings": unsafe.Sizeof(bpfSettings{}),
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
		"phone.flags": {unsafe.Offsetof(bpfPhone{}.Flags), 6}, "denial.last": {unsafe.Offsetof(bpfDenial{}.Last), 16}, "counters.lost": {unsafe.Offsetof(bpfCounters{}.Lost), 64},
		// The programs use one memory for both.
		"denial_key.name": {unsafe.Offsetof(bpfDenialKey{}.Name) - unsafe.Offsetof(bpfDenialKey{}.Number), unsafe.Offsetof(bpfNameKey{}.Name)},
		"state":           {unsafe.Sizeof(state{}), 40}, "reported": {unsafe.Sizeof(reported{}), 32},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s is at %d; want %d", name, pair[0], pair[1])
		}
	}
	if unsafe.Sizeof(bpfPhone{}) != 8 {
		t.Error("a struct phone cannot be read in one load")
	}
	for _, what := range []struct {
		name      string
		got, want uint64
	}{
		{"indexes of tries", 2 * (maxPhones + 1), 1 << 16}, {"flags", uint64(bpfPhoneFlagPHONE_NETWORK), 1 << 16},
	} {
		if what.got >= what.want {
			t.Errorf("%s need %d, and have room for %d", what.name, what.got, what.want)
		}
	}
}

// The numbers by which Android gives uids, the layout's number and the size of a name are those of layout.h.
func TestNumbers(t *testing.T) {
	if _, ok := vm.Guest(); ok {
		t.Skip("the sources stay on the host")
	}
	text, err := os.ReadFile("bpf/layout.h")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"LAYOUT": "1", "PER_USER": "100000", "FIRST_APP": "10000", "FIRST_SANDBOX": "20000", "END_SANDBOX": "30000", "NAME_SIZE": "256"} {
		found := regexp.MustCompile(`(?m)^#define ` + name + ` (\d+)\b`).FindSubmatch(text)
		if found == nil || string(found[1]) != want {
			t.Errorf("%s is %q; want %s", name, found, want)
		}
	}
	if layout != 1 || perUser != 100000 || firstApp != 10000 || firstSandbox != 20000 || endSandbox != 30000 {
		t.Error("Go has other numbers")
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

func TestAppID(t *testing.T) {
	for uid, want := range map[uint32]uint32{0: 0, 1000: 1000, 10123: 10123, 20123: 10123, 1010123: 10123, 1020123: 10123, 29999: 19999, 30000: 30000, 99001: 99001, 1099001: 99001} {
		if got := AppID(uid); got != want {
			t.Errorf("uid %d is app id %d; want %d", uid, got, want)
		}
	}
}

// How kernels say that they can be preempted.
func TestPreemptible(t *testing.T) {
	const debian = "Linux version 6.12.57+deb13-amd64 (debian-kernel@lists.debian.org) (gcc 14.2.0) #1 SMP %s Debian 6.12.57-1\n"
	for _, test := range []struct {
		built, chosen string
		full          bool
		how           string
	}{
		{"PREEMPT_DYNAMIC", "none (voluntary) full \n", false, "voluntary"}, {"PREEMPT_DYNAMIC", "none voluntary (full) \n", true, "full"},
		{"PREEMPT_DYNAMIC", "full (lazy) \n", true, "lazy"}, {"PREEMPT_DYNAMIC", "", true, "cannot be read"}, {"PREEMPT", "", true, "PREEMPT"},
		{"PREEMPT_RT", "", true, "PREEMPT_RT"}, {"", "", false, "without PREEMPT"}, {"PREEMPT_DYNAMIC", "what", true, "what"},
	} {
		full, how := preemptibleBy(strings.Replace(debian, "%s", test.built, 1), func() (string, error) {
			if test.chosen == "" {
				return "", os.ErrNotExist
			}
			return test.chosen, nil
		})
		if full != test.full || !strings.Contains(how, test.how) {
			t.Errorf("%q, %q: %v, %q", test.built, test.chosen, full, how)
		}
	}
}
