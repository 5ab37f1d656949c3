package vm

import "time"

// Option changes how a machine is made or what is in it.
type Option func(*settings)

type settings struct {
	programs  []string
	compat    []string
	files     []string
	testphone bool
	env       []string
	require   string
	timeout   time.Duration
	memory    int
	cpus      int
	fresh     bool
	disk      string
	only      string
	except    string
}

// defaultTimeout is the Timeout of those who name none.
const defaultTimeout = 10 * time.Minute

func settle(opts []Option) settings {
	s := settings{timeout: defaultTimeout}
	for _, o := range opts {
		o(&s)
	}
	return s
}

// Programs builds main packages of the repository ("runtime/cmd/phone-log") for the machine and puts them where testenv.Binary finds
// them. What needs C is cross-compiled, and runs on system machines only.
func Programs(packages ...string) Option {
	return func(s *settings) { s.programs = append(s.programs, packages...) }
}

// Compat builds main packages without C for the 32-bit architecture whose programs the machine runs beside its own, 386 or arm, and puts
// them where testenv.BinaryFor finds them.
func Compat(packages ...string) Option {
	return func(s *settings) { s.compat = append(s.compat, packages...) }
}

// Testphone puts the image archive testphone.tar beside the programs.
func Testphone() Option { return func(s *settings) { s.testphone = true } }

// Files puts files and directories of the repository ("docs/api.md") into the machine, so that a path relative to the package's
// directory leads to them there too. The testdata directory of the package is always there.
func Files(paths ...string) Option {
	return func(s *settings) { s.files = append(s.files, paths...) }
}

// Env adds KEY=VALUE to the environment of what runs in the machine.
func Env(values ...string) Option {
	return func(s *settings) { s.env = append(s.env, values...) }
}

// Require is PHONEHOST_TEST_REQUIRE in the machine: needs, separated by commas, without which a test fails instead of being
// skipped. The host's own value does not count there, since it promises nothing of the machine.
func Require(needs string) Option { return func(s *settings) { s.require = needs } }

// Timeout is how long the tests of one target may take once the machine is there; 10 minutes if it is not given, and never longer
// than -test.timeout leaves.
func Timeout(d time.Duration) Option { return func(s *settings) { s.timeout = d } }

// Memory is the memory of the machine in MiB; the machine's own default if it is not given.
func Memory(mib int) Option { return func(s *settings) { s.memory = mib } }

// CPUs is the number of the machine's processors, 2 if it is not given.
func CPUs(n int) Option { return func(s *settings) { s.cpus = n } }

// Fresh boots the machine instead of resuming a saved one.
func Fresh() Option { return func(s *settings) { s.fresh = true } }

// Disk keeps the disk of the machine at path, which is made if there is no file, so that another machine goes on with it: what a
// power cut needs. The machine is booted and not resumed.
func Disk(path string) Option { return func(s *settings) { s.disk = path } }

// Only runs those tests of a Package whose names match the pattern, as -test.run has it.
func Only(pattern string) Option { return func(s *settings) { s.only = pattern } }

// Except leaves out those tests of a Package whose names match the pattern, as -test.skip has it. Tests that start machines themselves,
// TestVM..., are always left out.
func Except(pattern string) Option { return func(s *settings) { s.except = pattern } }
