package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/displayroot"
	"github.com/phonehost/phonehost/runtime/ocispec"
)

const runcRuntime = "io.containerd.runc.v2"

// How long an instance may take to be ready, to end when it is asked, and to be removed.
const (
	readyTime  = 30 * time.Second
	endTime    = 15 * time.Second
	removeTime = 20 * time.Second
)

// Ensure makes one instance of s run and be ready, and no other: see the package comment. When it returns an error, what ran before goes on,
// unless it had ended. One that runs already with what s says is asked whether it is ready, and left alone if it is.
//
// Errors: errdefs.ErrInvalidArgument for a Spec that cannot be; errdefs.ErrUnavailable if containerd does not answer; the error of Ready.
func (h *Host) Ensure(ctx context.Context, s Spec) (Instance, error) {
	if err := s.validate(); err != nil {
		return Instance{}, err
	}
	i, err := h.ensure(ctx, s)
	if err != nil {
		return Instance{}, fmt.Errorf("service %s: %w", s.Name, err)
	}
	return i, nil
}

func (h *Host) ensure(ctx context.Context, s Spec) (Instance, error) {
	root, err := displayroot.Assemble(ctx, h.rootOf(s))
	if err != nil {
		return Instance{}, err
	}
	version, err := s.version(root)
	if err != nil {
		return Instance{}, err
	}
	all, err := h.Observe(ctx, s.Name)
	if err != nil {
		return Instance{}, err
	}
	// Of several that are right the newest stays.
	at := -1
	for n, i := range all {
		if i.Running && i.Version == version {
			at = n
		}
	}
	var current Instance
	if at >= 0 {
		current = all[at]
		all = slices.Delete(all, at, at+1)
	} else if current, err = h.start(ctx, s, root, version); err != nil {
		return Instance{}, err
	}
	if err := h.ready(ctx, s, current); err != nil {
		if others := running(all); at < 0 || len(others) > 0 {
			err = errors.Join(err, h.discard(ctx, current))
		}
		return Instance{}, err
	}
	for _, i := range all {
		if err := h.end(ctx, i); err != nil {
			return Instance{}, err
		}
	}
	if err := displayroot.Prune(h.rootsDir(s.Name), []string{root}); err != nil {
		h.log.Warn("unused roots of a service stay", "service", s.Name, "error", err)
	}
	return current, nil
}

func running(all []Instance) []Instance {
	return slices.DeleteFunc(slices.Clone(all), func(i Instance) bool { return !i.Running })
}

// rootOf is what the root of a service is made of.
func (h *Host) rootOf(s Spec) displayroot.Config {
	return displayroot.Config{
		Dir: h.rootsDir(s.Name), Binary: s.Binary, Program: program, Mountpoints: []string{"proc", "dev", ConfigDir, RunDir, ocispec.ServiceBindDir},
	}
}

// ready waits until an instance does its work. One that ends meanwhile is not waited for.
func (h *Host) ready(ctx context.Context, s Spec, i Instance) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTime, fmt.Errorf("%s is not ready after %v: %w", i.ID, readyTime, errdefs.ErrUnavailable))
	defer cancel()
	ended := make(chan struct{})
	var code uint32
	go func() {
		defer close(ended)
		if last, err := h.Wait(ctx, i); err == nil {
			code = last.ExitCode
			cancel()
		}
	}()
	err := s.Ready(ctx, i)
	if err == nil {
		cancel()
		<-ended
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	cancel()
	<-ended
	if code != 0 {
		err = fmt.Errorf("it ended with %d, see %s: %w", code, h.logPath(s.Name), err)
	}
	return fmt.Errorf("wait until it is ready: %w", err)
}

// start makes and starts a new instance. If that does not succeed nothing is left of it.
func (h *Host) start(ctx context.Context, s Spec, root, version string) (_ Instance, err error) {
	id := idPrefix + s.Name + "." + uuid.NewString()[:8]
	i := Instance{ID: id, Name: s.Name, Version: version, Running: true, Started: time.Now()}
	dir := h.instanceDir(i)
	i.RunDir = filepath.Join(dir, "run")
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start %s: %w", id, err), h.discard(ctx, i))
		}
	}()
	if err := h.writeDir(dir, s); err != nil {
		return i, err
	}
	spec, err := ocispec.BuildService(ocispec.Service{
		Name: s.Name, Arch: runtime.GOARCH, UID: s.UID, Root: root, CgroupsPath: h.cgroupPath(id),
		Args: append([]string{program}, s.Args...), Env: s.Env, Capabilities: s.Capabilities, BPF: s.BPF,
		Binds: append([]ocispec.Bind{
			{Source: filepath.Join(dir, "config"), Destination: ConfigDir}, {Source: i.RunDir, Destination: RunDir, Writable: true},
		}, s.Binds...),
		Limits: ocispec.Limits{MemoryBytes: s.MemoryBytes, SwapAccounting: h.cgroups.SwapAccounting(), PIDs: s.PIDs, Files: s.OpenFiles},
	})
	if err != nil {
		return i, err
	}
	labels := map[string]string{labelService: s.Name, labelVersion: version, labelRoot: filepath.Base(root)}
	container, err := h.cfg.Client.NewContainer(ctx, id, containerd.WithSpec(spec), containerd.WithContainerLabels(labels),
		// As the phones' containers, these must not meet others of their names in runc's default directory.
		containerd.WithRuntime(runcRuntime, &options.Options{Root: filepath.Join(h.cfg.RunDir, "runc")}))
	if err != nil {
		return i, fmt.Errorf("create its container: %w", unavailable(err))
	}
	task, err := container.NewTask(ctx, cio.LogURI(h.logURI(s.Name)))
	if err != nil {
		return i, fmt.Errorf("create its task: %w", unavailable(err))
	}
	if err := task.Start(ctx); err != nil {
		return i, fmt.Errorf("start its task: %w", unavailable(err))
	}
	i.PID = task.Pid()
	h.log.Info("service started", "service", s.Name, "instance", id, "version", version, "pid", i.PID)
	return i, nil
}

// writeDir makes the directories of an instance, and its files.
func (h *Host) writeDir(dir string, s Spec) error {
	for _, d := range []string{filepath.Join(dir, "config"), filepath.Join(dir, "run"), filepath.Dir(h.logPath(s.Name))} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	run := filepath.Join(dir, "run")
	if err := errors.Join(os.Chown(run, int(s.UID), int(s.UID)), os.Chmod(run, 0o700)); err != nil {
		return err
	}
	for name, content := range s.Files {
		path := filepath.Join(dir, "config", name)
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o644); err != nil { // whatever the umask is
			return err
		}
	}
	return nil
}

// logURI makes the shim start the log writer for an instance's output.
func (h *Host) logURI(name string) *url.URL {
	return &url.URL{Scheme: "binary", Path: h.cfg.LogBinary, RawQuery: url.Values{"-path": {h.logPath(name)}}.Encode()}
}

// end asks an instance to end, kills it when it takes too long, and removes it.
func (h *Host) end(ctx context.Context, i Instance) error {
	if i.Running {
		ending, cancel := context.WithTimeout(ctx, endTime)
		defer cancel()
		if err := h.signal(ending, i, unix.SIGTERM); err != nil {
			return err
		}
		if _, err := h.Wait(ending, i); err != nil && ending.Err() == nil {
			return err
		}
		if ending.Err() != nil && ctx.Err() == nil {
			h.log.Warn("a service does not end when it is asked; it is killed", "service", i.Name, "instance", i.ID)
		}
	}
	return h.remove(ctx, i)
}

// discard removes an instance also when the caller has left.
func (h *Host) discard(ctx context.Context, i Instance) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
	defer cancel()
	return h.remove(ctx, i)
}

// Remove ends every instance of a service and removes all of it but its log. One that does not exist is no error.
func (h *Host) Remove(ctx context.Context, name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("service %q: %w", name, errdefs.ErrInvalidArgument)
	}
	all, err := h.Observe(ctx, name)
	if err != nil {
		return err
	}
	for _, i := range all {
		if err := h.end(ctx, i); err != nil {
			return fmt.Errorf("service %s: %w", name, err)
		}
	}
	if err := errors.Join(os.RemoveAll(h.serviceDir(name)), os.RemoveAll(h.rootsDir(name))); err != nil {
		return fmt.Errorf("service %s: %w", name, err)
	}
	return nil
}

func sortByAge(list []containers.Container) {
	slices.SortFunc(list, func(a, b containers.Container) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
}
