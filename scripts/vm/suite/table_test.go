package suite

import (
	"time"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// entry is a package whose tests run in machines.
type entry struct {
	vm.Suite
	// daily packages run under make test-vm, the others under make test-vm-all only.
	daily bool
}

// Why tests do not run in a machine. Its root has what phones need and nothing else.
const (
	noFFmpeg   = "the machine has no ffmpeg; scripts/e2e TestVMWholePath decodes a machine's stream on the host"
	noClients  = "the machine has no Wayland clients; that their protocol is served the same everywhere is what the package's other tests find"
	noLayouts  = "the machine has no xkbcli"
	noScanner  = "the machine has no wayland-scanner, and what is generated is the same everywhere"
	noGo       = "the machine has no go command"
	noAndroid  = "the machine has none of Android's tools"
	noAPKs     = "the machine has no real APK files, which the test phone's programs read the same everywhere"
	noZstd     = "the machine has no zstd program"
	noShells   = "the machine has no zsh and no fish"
	itsOwnSkip = "it makes the test environment skip a test, everywhere"
)

func why(reason string, tests ...string) []vm.LeftOut {
	return []vm.LeftOut{{Why: reason, Tests: tests}}
}

func files(paths ...string) []vm.Option { return []vm.Option{vm.Files(paths...)} }

func slow(limit time.Duration) []vm.Option { return []vm.Option{vm.Timeout(limit)} }

// table has every package with tests that is not elsewhere.
var table = []entry{
	{Suite: vm.Suite{Package: "agent/access"}},
	{Suite: vm.Suite{Package: "agent/api", Options: files("netpolicy/datapath/bpf/layout.h")}},
	{Suite: vm.Suite{Package: "agent/app"}},
	{Suite: vm.Suite{Package: "agent/applist"}},
	{Suite: vm.Suite{Package: "agent/cli", Options: files("docs/cli.md"), Skipped: append(
		why(noFFmpeg, "TestThroughTheTLSDoor", "TestRecord", "TestRecordUntilItsTime", "TestRecordGoesOnWhenTheDisplayIsBack"),
		why(noShells, "TestScripts/completion-zsh", "TestScripts/completion-fish")...)}},
	{Suite: vm.Suite{Package: "agent/cli/render"}},
	{Suite: vm.Suite{Package: "agent/client"}},
	{Suite: vm.Suite{Package: "agent/clock"}},
	{Suite: vm.Suite{Package: "agent/cmd/phonehostd"}},
	{Suite: vm.Suite{Package: "agent/command"}},
	{Suite: vm.Suite{Package: "agent/config"}},
	{Suite: vm.Suite{Package: "agent/controlplane"}},
	{Suite: vm.Suite{Package: "agent/data"}},
	{Suite: vm.Suite{Package: "agent/display"}},
	{Suite: vm.Suite{Package: "agent/doctor", Options: files("docs/doctor.md")}},
	{Suite: vm.Suite{Package: "agent/event"}},
	{Suite: vm.Suite{Package: "agent/fault"}},
	{Suite: vm.Suite{Package: "agent/feed"}},
	{Suite: vm.Suite{Package: "agent/guestfile"}},
	{Suite: vm.Suite{Package: "agent/health"}},
	{Suite: vm.Suite{Package: "agent/hub"}},
	{Suite: vm.Suite{Package: "agent/imageapps"}},
	{Suite: vm.Suite{Package: "agent/job"}},
	{Suite: vm.Suite{Package: "agent/metrics", Options: files("docs/metrics.md")}},
	{Suite: vm.Suite{Package: "agent/mp4", Skipped: why(noFFmpeg,
		"TestFilePlaysAsTheStreamItWasMadeOf/baseline", "TestFilePlaysAsTheStreamItWasMadeOf/main", "TestFilePlaysAsTheStreamItWasMadeOf/high",
		"TestTimesAreTheFramesOwn", "TestSizeMayChange", "TestFileBeyond4GiB", "TestRefusals")}},
	{Suite: vm.Suite{Package: "agent/network"}},
	{Suite: vm.Suite{Package: "agent/operation"}},
	{Suite: vm.Suite{Package: "agent/phone", Options: files("agent/store/testdata", "docs/api.md")}},
	{Suite: vm.Suite{Package: "agent/pki"}},
	{Suite: vm.Suite{Package: "agent/store"}},
	{Suite: vm.Suite{Package: "agent/stream", Skipped: why(noClients, "TestRealStream", "TestRealTouch")}},
	{Suite: vm.Suite{Package: "agent/tunnel"}},

	{Suite: vm.Suite{Package: "encoder/avcodec"}, daily: true},
	{Suite: vm.Suite{Package: "encoder/cmd/phone-display", Skipped: why(noFFmpeg, "TestStream", "TestColours")}},
	{Suite: vm.Suite{Package: "encoder/control"}},
	{Suite: vm.Suite{Package: "encoder/convert"}, daily: true},
	{Suite: vm.Suite{Package: "encoder/h264", Skipped: why(noFFmpeg,
		"TestParseSPS/baseline,_cropped,_coloured", "TestParseSPS/high,_reordered,_interlaced", "TestParseSPS/4:4:4_with_scaling_lists,_full_range")}},
	{Suite: vm.Suite{Package: "encoder/internal/benchframes"}},
	{Suite: vm.Suite{Package: "encoder/internal/codepages"}},
	{Suite: vm.Suite{Package: "encoder/keymap", Skipped: why(noLayouts, "TestCompiles", "TestAgreesWithTheUSLayout")}},
	{Suite: vm.Suite{Package: "encoder/level"}},
	{Suite: vm.Suite{Package: "encoder/screen"}},
	{Suite: vm.Suite{Package: "encoder/wayland", Short: "thirty scenes of TestRandomScenes take half a minute, and are the same arithmetic everywhere", Skipped: why(noClients,
		"TestWestonSimpleShm", "TestWestonSimpleTouch", "TestFoot", "TestWestonTerminal", "TestChromium")}, daily: true},
	{Suite: vm.Suite{Package: "encoder/wayland/internal/generate", Skipped: why(noScanner, "TestCommittedTablesAreUpToDate")}},
	{Suite: vm.Suite{Package: "encoder/wayland/wire"}},

	{Suite: vm.Suite{Package: "netpolicy/applist"}},
	{Suite: vm.Suite{Package: "netpolicy/netns"}, daily: true},
	{Suite: vm.Suite{Package: "netpolicy/packages"}},
	{Suite: vm.Suite{Package: "netpolicy/policy", Options: files("netpolicy/datapath/bpf/layout.h", "docs/netpolicy.md")}},

	{Suite: vm.Suite{Package: "runtime/binder"}, daily: true},
	{Suite: vm.Suite{Package: "runtime/cgroup"}, daily: true},
	{Suite: vm.Suite{Package: "runtime/container", Options: slow(45 * time.Minute)}},
	{Suite: vm.Suite{Package: "runtime/displayroot"}},
	{Suite: vm.Suite{Package: "runtime/image", Skipped: why(noAndroid, "TestImportWaydroid", "TestImportWaydroidRefuses", "TestImportWaydroidEndsInALayer")}},
	{Suite: vm.Suite{Package: "runtime/image/preinstalled"}},
	{Suite: vm.Suite{Package: "runtime/image/sparse", Skipped: why(noAndroid, "TestExpandsWhatImg2simgMakes")}},
	{Suite: vm.Suite{Package: "runtime/logger"}},
	{Suite: vm.Suite{Package: "runtime/ocispec", Without: why(noGo, "TestSpecsAreValid")}},
	{Suite: vm.Suite{Package: "runtime/profile"}},
	{Suite: vm.Suite{Package: "runtime/volume/archive", Skipped: why(noZstd, "TestTarReadsIt")}},

	{Suite: vm.Suite{Package: "scripts/bench"}},
	{Suite: vm.Suite{Package: "scripts/testenv", Skipped: why(itsOwnSkip, "TestPrebuiltProgramsAreTaken/missing")}},
	{Suite: vm.Suite{Package: "scripts/testphone/apkmake", Skipped: why(noAndroid, "TestAndroidToolsTakeIt")}},
	{Suite: vm.Suite{Package: "scripts/testphone/app"}},
	{Suite: vm.Suite{Package: "scripts/testphone/applet"}},
	{Suite: vm.Suite{Package: "scripts/testphone/barcode"}},
	{Suite: vm.Suite{Package: "scripts/testphone/binder"}},
	{Suite: vm.Suite{Package: "scripts/testphone/image", Skipped: why(noAPKs, "TestRealApps"), Without: why(noGo, "TestBuildIsReproducible")}},
	{Suite: vm.Suite{Package: "scripts/testphone/initd"}},
	{Suite: vm.Suite{Package: "scripts/testphone/logd"}},
	{Suite: vm.Suite{Package: "scripts/testphone/packages"}},
	{Suite: vm.Suite{Package: "scripts/testphone/paint", Skipped: why(noFFmpeg, "TestReadableAfterEncoding")}},
	{Suite: vm.Suite{Package: "scripts/testphone/property"}},
	{Suite: vm.Suite{Package: "scripts/testphone/screen"}},
	{Suite: vm.Suite{Package: "scripts/testphone/shell"}},
	{Suite: vm.Suite{Package: "scripts/testphone/system"}},
	{Suite: vm.Suite{Package: "scripts/testphone/zygote"}},
}

// elsewhere are the packages whose tests do not run in machines, or run there by themselves, with the reason.
var elsewhere = map[string]string{
	"agent/nameserver":                    "needs phonehostd in a container and the datapath; netpolicy's tests in machines have the kernel's part",
	"netpolicy":                           "TestVMNetworks runs it in machines",
	"netpolicy/appguard":                  "TestVMTierA and others run it in machines",
	"netpolicy/datapath":                  "TestVMDatapath runs it in machines",
	"netpolicy/nat":                       "TestVMBesideFirewallsEverywhere runs it in machines that have Docker, firewalld and ufw, TestVMNAT a part of it in others",
	"netpolicy/resolver":                  "asks with dig, which the machine has not; what it needs of the kernel netpolicy/datapath tests there",
	"netpolicy/shape":                     "TestVMShape runs it in machines",
	"netpolicy/wire":                      "TestVMOlderKernels runs it in machines",
	"runtime/service":                     "needs a test program that the machine has not; its containers are made as runtime/container makes them",
	"scripts/bench/netbench":              "measures, for which a machine is no place",
	"scripts/nettest":                     "scans with nmap, and needs iperf3 and dig, which the machine has not; netpolicy's tests are there",
	"scripts/testenv/netlab":              "is test equipment; what uses it runs there",
	"runtime/apk":                         "compares with aapt, which the machine has not; it knows neither kernel nor architecture",
	"runtime/crashpoint":                  "is test equipment, which knows neither kernel nor architecture",
	"runtime/guard":                       "has tests in machines of its own, with and without what it needs of the kernel",
	"runtime/image/ext4":                  "makes its images by e2fsprogs and Android's tools, which the machine has not; it knows neither kernel nor architecture",
	"runtime/image/waydroid":              "makes its images by e2fsprogs and Android's tools, which the machine has not; it knows neither kernel nor architecture",
	"runtime/volume":                      "TestVMVolumes runs it in machines",
	"scripts/e2e":                         "has tests in system machines of its own, driven from the host, where decoders and browsers are",
	"scripts/rules":                       "reads the repository with go and git",
	"scripts/soak":                        "kills agents by the hundred: make soak is for a host of its own",
	"scripts/systemd":                     "has tests in system machines only",
	"scripts/testenv/vm":                  "is the host's side of the lab",
	"scripts/testenv/vm/internal/pattern": "TestVMPackage runs it in a machine",
	"scripts/vm/payload":                  "is the host's side of the lab",
	"scripts/testenv/vm/internal/replay":  "is the host's side of the lab, and builds test binaries",
	"scripts/vm/asset":                    "is the host's side of the lab",
	"scripts/vm/cmd/vm":                   "is the host's side of the lab",
	"scripts/vm/debian":                   "is the host's side of the lab",
	"scripts/vm/host":                     "is the host's side of the lab",
	"scripts/vm/lab":                      "is the host's side of the lab",
	"scripts/vm/machine":                  "is the host's side of the lab",
	"scripts/vm/control":                  "is the host's side of the lab",
	"scripts/vm/guest":                    "is the lab's own, and runs on the host in namespaces",
	"scripts/vm/machine/qmp":              "is the host's side of the lab",
	"scripts/vm/ready":                    "is the host's side of the lab",
	"scripts/vm/suite":                    "is this package",
}

// programs are what tests take from testenv.Binary and its like, all together.
func programs() []vm.Option {
	return []vm.Option{
		vm.Testphone(), vm.Compat("runtime/container/testdata/probe"),
		vm.Programs("agent/cmd/phonehostd", "agent/cmd/phonectl", "runtime/cmd/phone-log", "encoder/cmd/phone-display",
			"runtime/container/testdata/probe", "scripts/testphone/cmd/testphone"),
	}
}
