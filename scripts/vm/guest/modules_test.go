package guest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// indexes are depmod's, in its own words.
var indexes = map[string]string{
	"modules.dep": `kernel/fs/overlayfs/overlay.ko:
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/net/core/failover.ko:
kernel/sound/drivers/snd-aloop.ko: kernel/sound/core/snd-pcm.ko kernel/sound/core/snd.ko
kernel/drivers/net/dummy.ko:
kernel/drivers/one.ko:
kernel/drivers/two.ko:
`,
	"modules.alias": `# Aliases extracted from modules themselves.
alias fs-overlay overlay
alias virtio:d00000001v* virtio_net
alias rtnl-link-dummy dummy
alias both one
alias both two
alias platform:snd[_-]aloop* snd_aloop
alias broken
`,
	"modules.builtin": "kernel/fs/ext4/ext4.ko\nkernel/lib/crc32c-generic.ko\n",
}

func indexed(t *testing.T, without string) modules {
	t.Helper()
	m := modules{dir: t.TempDir(), options: map[string][]string{"failover": {"a=1"}, "virtio_net": {"b=2", "c=3"}, "snd_aloop": {"d=4"}}}
	for name, text := range indexes {
		if name == without {
			continue
		}
		if err := os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func TestModulesPlan(t *testing.T) {
	network := []loading{
		{"kernel/net/core/failover.ko", []string{"a=1"}}, {"kernel/drivers/net/net_failover.ko", nil}, {"kernel/drivers/net/virtio_net.ko", []string{"b=2", "c=3", "own=5"}},
	}
	for name, test := range map[string]struct {
		name    string
		options []string
		want    []loading
	}{
		"alone":                     {"overlay", nil, []loading{{"kernel/fs/overlayfs/overlay.ko", nil}}},
		"what it needs comes first": {"virtio_net", []string{"own=5"}, network},
		"by a pattern":              {"virtio:d00000001v00001AF4", []string{"own=5"}, network},
		"by an alias":               {"fs-overlay", nil, []loading{{"kernel/fs/overlayfs/overlay.ko", nil}}},
		"an alias of the kernel's":  {"rtnl-link-dummy", nil, []loading{{"kernel/drivers/net/dummy.ko", nil}}},
		"an alias of two":           {"both", []string{"x=1"}, []loading{{"kernel/drivers/one.ko", []string{"x=1"}}, {"kernel/drivers/two.ko", []string{"x=1"}}}},
		"with a hyphen":             {"snd-aloop", nil, []loading{{"kernel/sound/core/snd.ko", nil}, {"kernel/sound/core/snd-pcm.ko", nil}, {"kernel/sound/drivers/snd-aloop.ko", []string{"d=4"}}}},
		"with an underscore":        {"snd_aloop", nil, []loading{{"kernel/sound/core/snd.ko", nil}, {"kernel/sound/core/snd-pcm.ko", nil}, {"kernel/sound/drivers/snd-aloop.ko", []string{"d=4"}}}},
		"built in":                  {"ext4", nil, nil},
		"built in, with a hyphen":   {"crc32c_generic", nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := indexed(t, "")
			got, err := m.plan(test.name, test.options)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(loading{})); diff != "" {
				t.Errorf("loads (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{"b=2", "c=3"}, m.options["virtio_net"]); diff != "" {
				t.Errorf("the options have changed (-want +got):\n%s", diff)
			}
		})
	}
}

func TestModulesNotThere(t *testing.T) {
	if _, err := indexed(t, "").plan("no-such-module", nil); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no_such_module") {
		t.Errorf("a module that is not there: %v", err)
	}
	if _, err := indexed(t, "modules.builtin").plan("ext4", nil); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "ext4") {
		t.Errorf("without an index of what is built in: %v", err)
	}
	for _, index := range []string{"modules.dep", "modules.alias"} {
		if _, err := indexed(t, index).plan("overlay", nil); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), index) {
			t.Errorf("without %s: %v", index, err)
		}
	}
	// The index names a file that the directory lacks.
	if err := indexed(t, "").load("overlay", nil); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "overlay.ko") {
		t.Errorf("a module whose file is not there: %v", err)
	}
	if err := indexed(t, "").load("ext4", nil); err != nil {
		t.Errorf("a module that is built in: %v", err)
	}
	if err := loadInitial(filepath.Join(t.TempDir(), "none"), "", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an initrd without an order: %v", err)
	}
}

func TestParseModprobe(t *testing.T) {
	for name, test := range map[string]struct{ args, names, options []string }{
		"as the kernel asks":     {[]string{"-q", "--", "rtnl-link-dummy"}, []string{"rtnl-link-dummy"}, nil},
		"parameters":             {[]string{"vicodec", "multiplanar=1", "debug"}, []string{"vicodec"}, []string{"multiplanar=1", "debug"}},
		"several":                {[]string{"-a", "one", "two"}, []string{"one", "two"}, nil},
		"several, the long way":  {[]string{"--all", "-q", "one", "two"}, []string{"one", "two"}, nil},
		"nothing":                {nil, nil, nil},
		"a parameter of nothing": {[]string{"x=1"}, nil, nil},
		"what is not done here":  {[]string{"-r", "one"}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			names, options, err := parseModprobe(test.args)
			if diff := cmp.Diff([][]string{test.names, test.options}, [][]string{names, options}); diff != "" {
				t.Errorf("names and options (-want +got):\n%s", diff)
			}
			if (err == nil) != (test.names != nil) {
				t.Errorf("error %v", err)
			}
		})
	}
}
