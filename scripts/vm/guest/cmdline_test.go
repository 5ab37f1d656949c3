package guest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseCommandLine(t *testing.T) {
	const least = "phonehost.vm=kernel phonehost.release=6.12.1"
	for name, test := range map[string]struct {
		text string
		want commandLine
		err  string
	}{
		"least": {least, commandLine{kind: kindKernel, release: "6.12.1"}, ""},
		"a real one": {
			"console=ttyS0 panic=-1 quiet net.ifnames=0 phonehost.vm=system phonehost.release=6.1.0-28-amd64 mitigations=off cryptomgr.notests 8250.nr_uarts=1 lsm=landlock,yama\n",
			commandLine{kind: kindSystem, release: "6.1.0-28-amd64", options: map[string][]string{"net": {"ifnames=0"}, "cryptomgr": {"notests"}, "8250": {"nr_uarts=1"}}}, "",
		},
		"options of modules": {
			least + " vicodec.multiplanar=1 snd-aloop.index=1,2 snd_aloop.id=\"a b\" vicodec.debug x.y.z=1",
			commandLine{kind: kindKernel, release: "6.12.1", options: map[string][]string{"vicodec": {"multiplanar=1", "debug"}, "snd_aloop": {"index=1,2", "id=\"a b\""}, "x": {"y.z=1"}}}, "",
		},
		"cgroup v1":                 {least + " systemd.unified_cgroup_hierarchy=0", commandLine{kind: kindKernel, release: "6.12.1", cgroup1: true}, ""},
		"cgroup v2":                 {least + " systemd.unified_cgroup_hierarchy=1", commandLine{kind: kindKernel, release: "6.12.1"}, ""},
		"the last word counts":      {least + " phonehost.vm=system", commandLine{kind: kindSystem, release: "6.12.1"}, ""},
		"quotes":                    {least + ` x="a b phonehost.vm=system" y`, commandLine{kind: kindKernel, release: "6.12.1"}, ""},
		"a quote without end":       {least + ` x="a phonehost.vm=system`, commandLine{kind: kindKernel, release: "6.12.1"}, ""},
		"nothing":                   {"", commandLine{}, "phonehost.vm="},
		"no kind":                   {"phonehost.release=6.12.1", commandLine{release: "6.12.1"}, "phonehost.vm="},
		"another kind":              {"phonehost.vm=toaster phonehost.release=6.12.1", commandLine{kind: "toaster", release: "6.12.1"}, `phonehost.vm= is "toaster"`},
		"no release":                {"phonehost.vm=kernel", commandLine{kind: kindKernel}, "phonehost.release="},
		"a release that leads out":  {"phonehost.vm=kernel phonehost.release=../../x", commandLine{kind: kindKernel, release: "../../x"}, "phonehost.release="},
		"points without both parts": {least + " .x=1 y.=1 .", commandLine{kind: kindKernel, release: "6.12.1"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseCommandLine(test.text)
			if test.want.options == nil {
				test.want.options = map[string][]string{}
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(commandLine{})); diff != "" {
				t.Errorf("line (-want +got):\n%s", diff)
			}
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want one about %q", err, test.err)
			}
		})
	}
}
