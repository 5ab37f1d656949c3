package system

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/phonehost/phonehost/scripts/testphone/app"
	"github.com/phonehost/phonehost/scripts/testphone/packages"
)

// restartDelay is how long a persistent app that has ended stays away.
const restartDelay = 5 * time.Second

// The reasons why a component cannot be started.
var (
	errNoPackage  = errors.New("no such package")
	errNoClass    = errors.New("no such class")
	errUnresolved = errors.New("no activity for it")
	errSuspended  = errors.New("the package is suspended")
)

// started is what became of an activity's start.
type started struct {
	warm   bool // the process was there already
	result <-chan app.Message
}

// builtIn says whether every app has the component.
func builtIn(pkg, class string, names ...string) bool {
	for _, name := range names {
		if class == pkg+name {
			return true
		}
	}
	return false
}

// usable returns a package that a user may start.
func (s *Server) usable(name string, user int) (*packages.Package, error) {
	p, err := s.packages.Get(name)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, errNoPackage)
	case p.Users[user].Off():
		return nil, fmt.Errorf("%s is disabled: %w", name, errNoPackage)
	case p.Users[user].Suspended:
		return p, fmt.Errorf("%s: %w", name, errSuspended)
	}
	return p, nil
}

// resolve finds the activity of an intent.
func (s *Server) resolve(in intent) (*packages.Package, string, error) {
	name := in.pkg
	if in.component.pkg != "" {
		name = in.component.pkg
	}
	p, err := s.usable(name, max(in.user, 0))
	if p == nil {
		return nil, "", err
	}
	class := in.component.class
	switch {
	case class == "" && p.Activity == "":
		return nil, "", fmt.Errorf("%s: %w", name, errUnresolved)
	case class == "":
		return p, p.Activity, err
	case p.HasActivity(class) || builtIn(p.Name, class, app.Net, app.Loop, app.Spawn):
		return p, class, err
	}
	return nil, "", fmt.Errorf("%s: %w", class, errNoClass)
}

// startActivity starts an activity, and its process if there is none.
func (a *activities) startActivity(ctx context.Context, p *packages.Package, class string, user int, extras map[string]string) (started, error) {
	proc, warm, err := a.obtain(ctx, launch{pkg: p, user: user})
	if err != nil {
		return started{}, err
	}
	result, err := a.deliver(proc, app.Intent{Kind: "activity", Package: p.Name, Class: class, Extras: extras})
	return started{warm, result}, err
}

// startService starts one of the services that every app has.
func (a *activities) startService(ctx context.Context, pkg, class string, user int, extras map[string]string) error {
	p, err := a.server.usable(pkg, user)
	if err != nil {
		return err
	}
	l := launch{pkg: p, user: user}
	switch strings.TrimPrefix(class, pkg) {
	case app.Worker:
		l.suffix = ":worker"
	case app.Isolated:
		l.suffix, l.isolated = ":isolated", true
	default:
		return fmt.Errorf("%s: %w", class, errNoClass)
	}
	proc, _, err := a.obtain(ctx, l)
	if err != nil {
		return err
	}
	_, err = a.deliver(proc, app.Intent{Kind: "service", Package: pkg, Class: class, Extras: extras})
	return err
}

// broadcast has a receiver that every app has do its work, and returns the result.
func (a *activities) broadcast(ctx context.Context, pkg, class string, user int, extras map[string]string) (app.Message, error) {
	p, err := a.server.usable(pkg, user)
	if err != nil {
		return app.Message{}, err
	}
	if !builtIn(pkg, class, app.Net) {
		return app.Message{}, fmt.Errorf("%s: %w", class, errNoClass)
	}
	proc, _, err := a.obtain(ctx, launch{pkg: p, user: user})
	if err != nil {
		return app.Message{}, err
	}
	result, err := a.deliver(proc, app.Intent{Kind: "broadcast", Package: pkg, Class: class, Extras: extras})
	if err != nil {
		return app.Message{}, err
	}
	return await(ctx, result)
}

// await waits for a result.
func await(ctx context.Context, result <-chan app.Message) (app.Message, error) {
	select {
	case m, ok := <-result:
		if !ok {
			return m, errors.New("the process ended")
		}
		return m, nil
	case <-ctx.Done():
		return app.Message{}, ctx.Err()
	}
}

// startPersistent starts the image's apps and keeps them running, each with a goroutine of its own. It returns when each has been tried
// once.
func (s *Server) startPersistent(ctx context.Context) {
	for _, p := range s.packages.List() {
		if !p.System || p.AppID < 10000 {
			continue
		}
		ended := s.tryPersistent(ctx, p.Name)
		s.activities.work.Go(func() { s.keep(ctx, p.Name, ended) })
	}
}

// keep starts an app again after each of its ends.
func (s *Server) keep(ctx context.Context, name string, ended <-chan struct{}) {
	for {
		select {
		case <-ended:
		case <-ctx.Done():
			return
		}
		delay := time.NewTimer(restartDelay)
		select {
		case <-delay.C:
		case <-ctx.Done():
			delay.Stop()
			return
		}
		ended = s.tryPersistent(ctx, name)
	}
}

// tryPersistent starts an app and returns what is closed when it has ended.
func (s *Server) tryPersistent(ctx context.Context, name string) <-chan struct{} {
	closed := make(chan struct{})
	close(closed)
	p, err := s.usable(name, 0)
	if err != nil {
		return closed
	}
	proc, _, err := s.activities.obtain(ctx, launch{pkg: p})
	if err != nil {
		if ctx.Err() == nil {
			s.cfg.Printf("persistent app: %v", err)
		}
		return closed
	}
	return proc.ended
}
