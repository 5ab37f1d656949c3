package machine

// Machine is one running QEMU. Whoever got it must Close it.
type Machine struct {
	config Config
	dir    string
}

// Config returns what the machine was started with, defaults filled in.
func (m *Machine) Config() Config { return m.config }

// Dir returns the machine's directory.
func (m *Machine) Dir() string { return m.dir }
