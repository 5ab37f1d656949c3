package container

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/phonehost/phonehost/runtime/binder"
	"github.com/phonehost/phonehost/runtime/cgroup"
	"github.com/phonehost/phonehost/runtime/image"
)

// Config says where things lie. All paths are absolute.
type Config struct {
	// Address is the path of containerd's socket and Namespace the containerd namespace that holds the phones. Defaults
	// /run/containerd/containerd.sock and "phonehost".
	Address, Namespace string
	// Snapshotter of the guests' root file systems; default "overlayfs".
	Snapshotter string
	// StateDir, RunDir and LogDir hold what the package comment draws; NetNSDir holds the network namespaces, named by phone.
	StateDir, RunDir, LogDir, NetNSDir string
	// CgroupRoot is the agent's own cgroup in every hierarchy; default "/phonehost".
	CgroupRoot string
	// FormerCgroupRoots are where agents of this host had their cgroup before: phones that were started there stay until their next
	// start, and what they leave is removed. Nobody else may have phones there.
	FormerCgroupRoots []string
	// DisplayUIDBase is the uid of the display of slot 0; default 2000000.
	DisplayUIDBase uint32
	// DisplayBinary is phone-display and LogBinary phone-log. Without DisplayBinary the engine starts no displays, and does nothing
	// about what they start from.
	DisplayBinary, LogBinary string
	// DisplayArgs go after the arguments that every display gets.
	DisplayArgs []string
	// DisplayDevices are the device nodes of the host's encoders, which every display gets.
	DisplayDevices []string
	// RenderNode is the GPU's render node, of which every guest whose profile draws gets a node of its own; empty: guests draw by CPU.
	RenderNode string
	// DisplayMemoryBytes is the memory limit of a display; default 512 MiB.
	DisplayMemoryBytes uint64
	// MaxFiles bounds the open files of a process in a guest; default 32768, or less where this process may not have as many.
	MaxFiles uint64
	// Binder tells what the kernel offers of binder, at every start of a guest that wants it; default binder.Probe.
	Binder func() (binder.Support, error)
	// MaxNice is RLIMIT_NICE of guests with binder devices; default 40, as Android's init asks for, or less where this process, and so
	// containerd, may not have as much.
	MaxNice uint64
	// Guard keeps guests that may mount from the host; nil: there is none, and such guests are started only with AllowUnguarded.
	Guard          Guard
	AllowUnguarded bool
	// Logger gets what is neither an error nor an answer; default: nothing is logged.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if c.Address == "" {
		c.Address = "/run/containerd/containerd.sock"
	}
	if c.Namespace == "" {
		c.Namespace = "phonehost"
	}
	if c.Snapshotter == "" {
		c.Snapshotter = "overlayfs"
	}
	if c.CgroupRoot == "" {
		c.CgroupRoot = "/phonehost"
	}
	if c.DisplayUIDBase == 0 {
		c.DisplayUIDBase = 2_000_000
	}
	if c.DisplayMemoryBytes == 0 {
		c.DisplayMemoryBytes = 512 << 20
	}
	if c.Binder == nil {
		c.Binder = binder.Probe
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.MaxFiles == 0 {
		// A container can have no more than its containerd; the two services' limits are alike.
		var own unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
			return c, fmt.Errorf("read the limit of open files: %w", err)
		}
		c.MaxFiles = min(32768, own.Max)
	}
	if c.MaxNice == 0 {
		nice, err := niceLimit()
		if err != nil {
			return c, err
		}
		c.MaxNice = nice
	}
	for name, path := range map[string]string{
		"StateDir": c.StateDir, "RunDir": c.RunDir, "LogDir": c.LogDir, "NetNSDir": c.NetNSDir,
		"DisplayBinary": c.DisplayBinary, "LogBinary": c.LogBinary, "CgroupRoot": c.CgroupRoot,
	} {
		if !filepath.IsAbs(path) && (name != "DisplayBinary" || path != "") {
			return c, fmt.Errorf("container engine: %s %q is not an absolute path: %w", name, path, errdefs.ErrInvalidArgument)
		}
	}
	for _, root := range append([]string{c.CgroupRoot}, c.FormerCgroupRoots...) {
		if filepath.Clean("/"+root) == "/" {
			return c, fmt.Errorf("container engine: the cgroup root %q would make every cgroup of the host a phone's: %w", root, errdefs.ErrInvalidArgument)
		}
	}
	return c, nil
}

// Engine runs phones. Its methods may be called from several goroutines, within the rule of the package comment.
type Engine struct {
	config   Config
	client   *containerd.Client
	unpacker *image.Unpacker
	cgroups  *cgroup.Tree
	log      *slog.Logger
	word     string // in the names that Exec chooses, and in no other engine's
	unnamed  atomic.Uint64
	clearing func() // ends what clears away a dead agent's execs, and waits for it; set by begin

	mu      sync.Mutex
	display displayProgram // the root that was assembled last

	binderMu sync.Mutex // held from the choice of a triple to its claim
	claims   map[*claim]struct{}
}

// answerTime bounds how long containerd may take for a question; a containerd that takes longer counts as unavailable.
const answerTime = 10 * time.Second

// New connects to containerd. It returns errdefs.ErrUnavailable if none answers and errdefs.ErrInvalidArgument for a Config that
// cannot be. The caller closes the Engine.
func New(c Config) (*Engine, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	tree, err := cgroup.New(c.CgroupRoot, c.FormerCgroupRoots...)
	if err != nil {
		return nil, err
	}
	client, err := connect(c)
	if err != nil {
		return nil, err
	}
	unpacker, err := image.NewUnpacker(client, c.Snapshotter)
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	e := &Engine{config: c, client: client, unpacker: unpacker, cgroups: tree, log: c.Logger, claims: map[*claim]struct{}{}, word: newWord(), clearing: func() {}}
	if err := e.begin(context.Background()); err != nil {
		e.clearing()
		return nil, errors.Join(err, client.Close())
	}
	return e, nil
}

func connect(c Config) (*containerd.Client, error) {
	client, err := containerd.New(c.Address, containerd.WithDefaultNamespace(c.Namespace), containerd.WithDialOpts([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dial),
		// containerd is on this host: trying often costs nothing, and its return is noticed soon.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: answerTime,
		}),
	}))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", c.Address, err)
	}
	return client, nil
}

// dial connects to a socket. containerd's own dialer waits for a socket that does not exist; whoever asks wants to know at once.
func dial(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", strings.TrimPrefix(address, "unix://"))
}

// begin finds out whether containerd answers, and clears away what only a running agent uses.
func (e *Engine) begin(ctx context.Context) error {
	if _, err := e.Version(ctx); err != nil {
		return fmt.Errorf("no containerd answers at %s; install containerd and runc (Debian: apt-get install containerd runc), "+
			"start it (systemctl start containerd), or name another socket as containerd.address in the configuration: %w", e.config.Address, err)
	}
	stale, err := releasePipes(e.execDir())
	if err != nil {
		return err
	}
	e.clearing = e.clearLater(stale)
	if err := e.releaseGone(); err != nil {
		return err
	}
	if err := os.MkdirAll(e.config.RunDir, 0o755); err != nil {
		return fmt.Errorf("make the run directory: %w", err)
	}
	if e.config.DisplayBinary == "" {
		return nil
	}
	return e.pruneDisplayRoots(ctx)
}

// Close ends the connection to containerd. Phones go on.
func (e *Engine) Close() error {
	e.clearing()
	return e.client.Close()
}

// clearLater lets go of the pipes of a dead agent's execs when they have been held long enough, and then ends the processes. stop ends
// that and waits for it.
func (e *Engine) clearLater(stale *pipes) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		defer stale.close()
		select {
		case <-time.After(holdTime):
		case <-ctx.Done():
			return
		}
		stale.close()
		e.endStrays(ctx)
	})
	return func() {
		cancel()
		work.Wait()
	}
}

// Client is the engine's connection to containerd, with its namespace; it lives as long as the engine. The image store uses it.
func (e *Engine) Client() *containerd.Client { return e.client }

// Unpacker unpacks images for the engine's phones; the image store uses the same one, so that the two wait for each other.
func (e *Engine) Unpacker() *image.Unpacker { return e.unpacker }

// Version asks containerd for its version; errdefs.ErrUnavailable if it does not answer.
func (e *Engine) Version(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	v, err := e.client.Version(ctx)
	if err != nil {
		return "", fmt.Errorf("ask containerd for its version: %w", unavailable(err))
	}
	return v.Version, nil
}

// unavailable gives errors that mean no answer their class. Errors of gRPC get containerd's classes.
func unavailable(err error) error {
	if err == nil {
		return nil
	}
	if _, raw := status.FromError(err); raw {
		err = errgrpc.ToNative(err)
	}
	if errors.Is(err, context.DeadlineExceeded) || errdefs.IsDeadlineExceeded(err) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	return err
}
