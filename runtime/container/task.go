package container

import "time"

// TaskState is what containerd says of a task.
type TaskState int

// The states of a task. There is none for "unknown": Observe returns an error instead.
const (
	// TaskNone: there is no task, or containerd lost it together with its shim.
	TaskNone TaskState = iota
	// TaskCreated: its namespaces, mounts and cgroups exist; its first process has not begun.
	TaskCreated
	// TaskRunning: its first process runs. A task in the act of being paused counts as running.
	TaskRunning
	// TaskStopped: its first process ended; ExitCode and ExitedAt are set until the task is removed.
	TaskStopped
)

// String returns "none", "created", "running" or "stopped".
func (s TaskState) String() string {
	switch s {
	case TaskCreated:
		return "created"
	case TaskRunning:
		return "running"
	case TaskStopped:
		return "stopped"
	default:
		return "none"
	}
}

// Task is what containerd knows about one of a phone's containers.
type Task struct {
	// Container tells whether the container's record exists; without it every other field is zero.
	Container bool
	// State of the container's task.
	State TaskState
	// PID of its first process in the host's pid namespace; 0 when it does not run.
	PID uint32
	// ExitCode and ExitedAt are set when State is TaskStopped. An exit by signal n is 128 + n.
	ExitCode uint32
	ExitedAt time.Time
	// StartedAt is when the running process began, in the kernel's resolution; zero when it does not run.
	StartedAt time.Time
	// What the container was created from.
	BootGeneration, DataGeneration uint64
	ImageDigest                    string
	// Version names what runs in the container: for a display the hash of its root directory, for a guest it is empty.
	Version string
	// Note is the Phone's when the container was created.
	Note string
	// MemoryBytes is, for a guest that runs, the limit of its memory as the kernel has it now; 0 when that is not known.
	MemoryBytes uint64
	// OOMKills counts, for a guest, the processes that the kernel has killed since its start because its memory was used up. It is known
	// until the task is removed.
	OOMKills uint64
	// Cgroup is where the container's processes are: the path below each hierarchy that its spec names.
	Cgroup string
	// Outside tells that this is not where a start would put them now: an engine with another CgroupRoot made the container.
	Outside bool
	// HostStopped tells, for a guest, that it was ended because the host stops: its exit, if State shows one, means nothing.
	HostStopped bool
}

// Observation is the actual state of a phone at one moment.
type Observation struct {
	Guest, Display Task
}
