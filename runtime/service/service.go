package service

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/status"

	"github.com/phonehost/phonehost/runtime/cgroup"
	"github.com/phonehost/phonehost/runtime/ocispec"
)

// Config says where things lie. All paths are absolute.
type Config struct {
	// Client is the connection to containerd, with its namespace; the caller closes it.
	Client *containerd.Client
	// StateDir, RunDir and LogDir hold what the package comment draws.
	StateDir, RunDir, LogDir string
	// CgroupRoot is the agent's own cgroup in every hierarchy.
	CgroupRoot string
	// LogBinary is phone-log.
	LogBinary string
	// Logger gets what is neither an error nor an answer; default: nothing is logged.
	Logger *slog.Logger
}

// Host runs services. Its methods may be called from several goroutines, within the rule of the package comment.
type Host struct {
	cfg     Config
	cgroups *cgroup.Tree
	log     *slog.Logger
}

// New checks the Config: errdefs.ErrInvalidArgument names the path that is none.
func New(c Config) (*Host, error) {
	for name, path := range map[string]string{"StateDir": c.StateDir, "RunDir": c.RunDir, "LogDir": c.LogDir, "CgroupRoot": c.CgroupRoot, "LogBinary": c.LogBinary} {
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("services: %s %q is no absolute path: %w", name, path, errdefs.ErrInvalidArgument)
		}
	}
	tree, err := cgroup.New(c.CgroupRoot)
	if err != nil {
		return nil, fmt.Errorf("services: %w", err)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Host{cfg: c, cgroups: tree, log: c.Logger}, nil
}

// Spec is what a service should be.
type Spec struct {
	// Name is the service's: 1..16 characters of [a-z0-9], a letter first.
	Name string
	// Binary is the program's path on the host, and Args its arguments.
	Binary string
	Args   []string
	// Env is its environment, "GOMEMLIMIT=200MiB".
	Env []string
	// UID is the user and group that it runs as; nobody else on the host has it.
	UID uint32
	// Capabilities and BPF are what it may besides; see ocispec.Service.
	Capabilities []string
	BPF          []uint32
	// Binds are directories of the host that it sees, below ocispec.ServiceBindDir.
	Binds []ocispec.Bind
	// Files are what it finds in ConfigDir, by name.
	Files map[string][]byte
	// MemoryBytes bounds its memory, PIDs its threads and OpenFiles its open files.
	MemoryBytes uint64
	PIDs        int64
	OpenFiles   uint64
	// Ready returns nil when the instance does its work, which it waits for until the context ends. It must not be nil.
	Ready func(context.Context, Instance) error `json:"-"`
}

// Where an instance finds its files, and the directory that it may write.
const (
	ConfigDir = "/config"
	RunDir    = "/run"
)

// program is where the binary stands in a root.
const program = "/service"

var validName = regexp.MustCompile(`^[a-z][a-z0-9]{0,15}$`)

func (s Spec) validate() error {
	switch {
	case !validName.MatchString(s.Name):
		return fmt.Errorf("service %q: a name is 1 to 16 of a-z and 0-9, a letter first: %w", s.Name, errdefs.ErrInvalidArgument)
	case s.UID == 0 || s.Ready == nil || s.MemoryBytes == 0 || s.PIDs == 0 || s.OpenFiles == 0:
		return fmt.Errorf("service %s: has no UID, Ready or limits: %w", s.Name, errdefs.ErrInvalidArgument)
	}
	for _, b := range s.Binds {
		if !filepath.IsAbs(b.Source) || filepath.Dir(b.Destination) != ocispec.ServiceBindDir {
			return fmt.Errorf("service %s: %q cannot be seen as %q, which is no name in %s: %w", s.Name, b.Source, b.Destination, ocispec.ServiceBindDir, errdefs.ErrInvalidArgument)
		}
	}
	for name := range s.Files {
		if name != filepath.Base(name) || strings.HasPrefix(name, ".") {
			return fmt.Errorf("service %s: %q is no name of a file: %w", s.Name, name, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// versionLength is how many hexadecimal digits a version has.
const versionLength = 16

// version names all that a start of s from a root depends on.
func (s Spec) version(root string) (string, error) {
	s.Binary = filepath.Base(root) // which is named for its content
	text, err := json.Marshal(s)   // maps are ordered by key
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])[:versionLength], nil
}

// Instance is one container of a service.
type Instance struct {
	// ID is the container's and Name the service's. Version is the Spec's that it was started from.
	ID, Name, Version string
	// Running tells whether its process runs, and PID is its pid on the host.
	Running bool
	PID     uint32
	// ExitCode and ExitedAt are set when it has ended.
	ExitCode uint32
	ExitedAt time.Time
	// Started is when its container was made.
	Started time.Time
	// RunDir is the directory on the host that it finds as RunDir.
	RunDir string
}

// Labels of containers.
const (
	labelService = "dev.phonehost.service"
	labelVersion = "dev.phonehost.version"
	labelRoot    = "dev.phonehost.root"
)

const idPrefix = "service."

// answerTime bounds how long containerd may take for a question.
const answerTime = 10 * time.Second

// Observe returns what there is of a service, the oldest instance first. errdefs.ErrUnavailable: containerd does not answer, which is not
// an end of anything.
func (h *Host) Observe(ctx context.Context, name string) ([]Instance, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	list, err := h.records(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("observe service %s: %w", name, err)
	}
	var all []Instance
	for _, c := range list {
		i, err := h.instance(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("observe service %s: %w", name, err)
		}
		all = append(all, i)
	}
	return all, nil
}

// records lists a service's containers, the oldest first.
func (h *Host) records(ctx context.Context, name string) ([]containers.Container, error) {
	list, err := h.cfg.Client.ContainerService().List(ctx, fmt.Sprintf("labels.%q==%q", labelService, name))
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", unavailable(err))
	}
	sortByAge(list)
	return list, nil
}

// instance reads what containerd says of a container's task.
func (h *Host) instance(ctx context.Context, c containers.Container) (Instance, error) {
	i := Instance{ID: c.ID, Name: c.Labels[labelService], Version: c.Labels[labelVersion], Started: c.CreatedAt}
	i.RunDir = filepath.Join(h.instanceDir(i), "run")
	answer, err := h.cfg.Client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: c.ID})
	if err = errgrpc.ToNative(err); errdefs.IsNotFound(err) {
		return i, nil
	}
	if err != nil {
		return i, fmt.Errorf("ask for the task of %s: %w", c.ID, unavailable(err))
	}
	p := answer.GetProcess()
	switch p.GetStatus() {
	case tasktypes.Status_UNKNOWN:
		return i, fmt.Errorf("ask for the task of %s: its shim does not answer: %w", c.ID, errdefs.ErrUnavailable)
	case tasktypes.Status_RUNNING, tasktypes.Status_PAUSED, tasktypes.Status_PAUSING:
		i.Running, i.PID = true, p.GetPid()
	case tasktypes.Status_STOPPED:
		i.ExitCode, i.ExitedAt = p.GetExitStatus(), p.GetExitedAt().AsTime()
	}
	return i, nil
}

// Wait waits for the end of an instance. errdefs.ErrUnavailable: containerd went away, and nothing is known.
func (h *Host) Wait(ctx context.Context, i Instance) (Instance, error) {
	answer, err := h.cfg.Client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: i.ID})
	if err = errgrpc.ToNative(err); errdefs.IsNotFound(err) {
		i.Running, i.PID = false, 0
		return i, nil
	}
	if err != nil {
		return i, fmt.Errorf("wait for %s: %w", i.ID, unavailable(err))
	}
	i.Running, i.PID = false, 0
	i.ExitCode, i.ExitedAt = answer.GetExitStatus(), answer.GetExitedAt().AsTime()
	return i, nil
}

// unavailable gives errors that mean no answer their class. Errors of gRPC get containerd's classes.
func unavailable(err error) error {
	if _, raw := status.FromError(err); raw {
		err = errgrpc.ToNative(err)
	}
	if errors.Is(err, context.DeadlineExceeded) || errdefs.IsDeadlineExceeded(err) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	return err
}

func (h *Host) serviceDir(name string) string { return filepath.Join(h.cfg.RunDir, "services", name) }
func (h *Host) rootsDir(name string) string   { return filepath.Join(h.cfg.StateDir, "services", name) }
func (h *Host) logPath(name string) string {
	return filepath.Join(h.cfg.LogDir, "services", name+".log")
}
func (h *Host) cgroupPath(id string) string {
	return h.cgroups.ServicePath(strings.TrimPrefix(id, idPrefix))
}

func (h *Host) instanceDir(i Instance) string {
	return filepath.Join(h.serviceDir(i.Name), strings.TrimPrefix(i.ID, idPrefix+i.Name+"."))
}
