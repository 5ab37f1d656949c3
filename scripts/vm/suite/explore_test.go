package suite

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

func TestVMExplore(t *testing.T) {
	var suites []vm.Suite
	for _, p := range strings.Fields(os.Getenv("SUITES")) {
		suites = append(suites, vm.Suite{Package: p, Options: []vm.Option{vm.Files("docs", "agent/store/testdata", "scripts/systemd")}})
	}
	opts := []vm.Option{vm.Timeout(60 * time.Minute)}
	if os.Getenv("PROGRAMS") != "" {
		opts = append(opts, vm.Testphone(), vm.Programs("agent/cmd/phonehostd", "agent/cmd/phonectl", "runtime/cmd/phone-log", "encoder/cmd/phone-display"))
	}
	vm.Packages(t, vm.On("6.12").System(), suites, opts...)
}
