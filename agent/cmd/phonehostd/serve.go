package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phonehost/phonehost/agent/access"
	"github.com/phonehost/phonehost/agent/api"
	"github.com/phonehost/phonehost/agent/config"
	"github.com/phonehost/phonehost/agent/doctor"
	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/guestfile"
	"github.com/phonehost/phonehost/agent/health"
	"github.com/phonehost/phonehost/agent/tunnel"
)

// drainTimeout is how long calls may go on after the agent was told to end.
const drainTimeout = 10 * time.Second

// run builds the agent, opens its doors, and serves until ctx ends. Phones go on running.
func run(ctx context.Context, cfg config.Config, logger *slog.Logger) error {
	logger.Info("phonehostd starting", "version", version, "state_dir", cfg.StateDir)
	a, err := build(ctx, cfg, logger)
	if err != nil {
		return err
	}
	err = a.serve(ctx)
	err = errors.Join(err, a.close())
	logger.Info("phonehostd ended; phones go on running")
	return err
}

// doors is what lets callers in.
type doors struct {
	unix    *access.UnixListener
	streams *tunnel.Streams
	// network holds one function per network door, which serves until its context ends and then drains.
	network []func(context.Context) error
}

// serve opens the doors and serves the API until ctx ends or a part fails.
func (a *agent) serve(ctx context.Context) error {
	server, err := a.newServer()
	if err != nil {
		return err
	}
	stopFeeding := api.FeedHealth(a.health, server.Health)
	defer stopFeeding()
	d, err := a.openDoors()
	if err != nil {
		server.Stop()
		return err
	}
	group, serving := errgroup.WithContext(ctx)
	group.Go(func() error { return serveOn(server, d.unix) })
	group.Go(func() error { return serveOn(server, d.streams) })
	for _, door := range d.network {
		group.Go(func() error { return door(serving) })
	}
	if path := a.cfg.Metrics.Socket; path != "" {
		group.Go(func() error { return a.metrics.Serve(serving, path) })
	}
	group.Go(func() error {
		<-serving.Done()
		a.drain(server)
		return nil
	})
	a.journal.Emit(event.Event{
		Kind: event.AgentStarted, Message: "the agent started", Attributes: map[string]string{"version": version},
	})
	a.logger.Info("phonehostd ready", "socket", a.cfg.Socket.Path, "listen", a.cfg.TLS.Listen, "took", time.Since(a.start))
	if err := notify(notifyReady); err != nil {
		a.logger.Warn("service manager not told", "error", err)
	}
	group.Go(func() error { return a.watch(serving) })
	return group.Wait()
}

// serveOn serves one listener; its orderly end is no error.
func serveOn(server *api.Server, l net.Listener) error {
	if err := server.Serve(l); err != nil {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}

// drain ends the calls: those without an end at once, viewers with a word, the others within drainTimeout.
func (a *agent) drain(server *api.Server) {
	a.logger.Info("phonehostd stopping")
	if err := notify(notifyStopping); err != nil {
		a.logger.Warn("service manager not told", "error", err)
	}
	a.journal.Emit(event.Event{Kind: event.AgentStopping, Message: "the agent is stopping"})
	server.Drain()
	a.hub.Shutdown()
	deadline := time.AfterFunc(drainTimeout, server.Stop)
	defer deadline.Stop()
	server.GracefulStop()
}

// newServer assembles the API.
func (a *agent) newServer() (*api.Server, error) {
	roles, err := a.roles()
	if err != nil {
		return nil, err
	}
	name := a.cfg.Name
	if name == "" {
		if name, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("read the host's name: %w", err)
		}
	}
	networks, err := a.networkChecks()
	if err != nil {
		return nil, err
	}
	check := doctor.New(doctor.Config{
		StateDir: a.cfg.StateDir, DiskReserveBytes: a.cfg.Limits.DiskReserveBytes, DisplayBinary: a.cfg.Display.Binary,
		SocketGroup: a.cfg.Socket.Group, Cert: a.cfg.TLS.Cert, Key: a.cfg.TLS.Key, CA: a.cfg.TLS.CA,
		Containerd: a.engine.Version, ContainerdAddress: a.cfg.Containerd.Address, Health: a.health,
		Guard: a.unguarded, AppLists: a.lists.Status, Networks: networks,
	})
	return api.NewServer(access.Config{Roles: roles, Denied: a.denied}, api.Services{
		Phones: api.NewPhoneServer(api.PhoneConfig{
			Phones: a.phones, Guests: a.engine, Displays: a.displays, Viewers: a.hub.Viewers, AppLists: a.lists.State,
		}),
		Operations: api.NewOperationServer(a.ops),
		Events:     api.NewEventServer(a.journal),
		Streams:    api.NewStreamServer(a.hub),
		Hosts: api.NewHostServer(api.HostConfig{
			Name: name, Version: version, Start: a.start, StateDir: a.cfg.StateDir, PhonesByStatus: a.phones.CountByStatus,
			Viewers: func() int { return int(a.hub.Totals().Viewers) }, ContainerdVersion: a.engine.Version,
			Binder: a.phones.Binder, Health: a.health, Doctor: check, Logger: a.logger,
		}),
		Images: api.NewImageServer(api.ImageConfig{
			Store: toldImages{a.images, a.imageApps}, Users: a.phones.ImageUsers, DiskFree: a.diskFree, DiskReserveBytes: a.cfg.Limits.DiskReserveBytes,
			SpoolDir: a.cfg.StateDir,
		}),
		Commands: api.NewCommandServer(api.CommandConfig{Commands: a.commands, Jobs: a.jobs}),
		Apps:     api.NewAppServer(api.AppConfig{Apps: a.apps, Jobs: a.jobs}),
		Data:     api.NewDataServer(api.DataConfig{Phones: a.phones, Volumes: a.engine, Spool: a.archives}),
		Networks: api.NewNetworkServer(api.NetworkConfig{Phones: a.phones, Network: a.network}),
		AppLists: api.NewAppListServer(a.lists),
		Files:    api.NewFileServer(&guestfile.Copier{Guests: a.engine, Phones: a.phones}),
	}), nil
}

// roles reads the access table. Users and groups that the host does not have are a warning: the file may be older than they are.
func (a *agent) roles() (access.Roles, error) {
	table := make(map[string]string, len(a.cfg.Access))
	for _, entry := range a.cfg.Access {
		table[entry.Who()] = entry.Role
	}
	roles, unknown, err := access.ParseRoles(table)
	if err != nil {
		return roles, fmt.Errorf("read the access table: %w", err)
	}
	// The socket's own group has a warning of its own.
	unknown = slices.DeleteFunc(unknown, func(who string) bool { return who == "group/"+a.cfg.Socket.Group })
	if len(unknown) > 0 {
		a.health.Set(warnRoles, health.Warning, "this host does not have what the access table names: "+strings.Join(unknown, ", ")+
			"; add them, or take them out of the configuration, and restart the agent")
		a.logger.Warn("access table names users or groups that this host does not have", "unknown", unknown)
	}
	return roles, nil
}

// denied logs a call that was refused for its role.
func (a *agent) denied(_ context.Context, d access.Denial) {
	a.logger.Warn("call refused", "identity", d.Caller.Identity.String(), "door", d.Caller.Door, "method", d.Method,
		"has", d.Has.String(), "needs", d.Needs.String())
}

// openDoors opens the doors of the configuration. On an error none is open.
func (a *agent) openDoors() (_ *doors, err error) {
	d := &doors{streams: tunnel.NewStreams()}
	if d.unix, err = a.openSocket(); err != nil {
		return nil, err
	}
	if err := a.openNetwork(d); err != nil {
		return nil, errors.Join(err, d.unix.Close())
	}
	return d, nil
}

// openSocket opens the Unix door. Without its group it lets in nobody but root.
func (a *agent) openSocket() (*access.UnixListener, error) {
	c := access.UnixConfig{Path: a.cfg.Socket.Path, Mode: 0o660}
	gid, err := lookUpGroup(a.cfg.Socket.Group)
	if err != nil {
		c.Mode = 0o600
		a.health.Set(warnGroup, health.Warning, fmt.Sprintf("the group %q of the socket does not exist, so only root may connect; make it with: groupadd --system %s, and restart the agent",
			a.cfg.Socket.Group, a.cfg.Socket.Group))
		a.logger.Warn("only root may connect to the socket", "error", err)
	}
	c.GID = gid
	return access.ListenUnix(c)
}

// lookUpGroup returns the number of a group that is given by name or number; none means root's.
func lookUpGroup(name string) (uint32, error) {
	if name == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), nil
	}
	group, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("look up group %s: %w", name, err)
	}
	n, err := strconv.ParseUint(group.Gid, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("look up group %s: %w", name, err)
	}
	return uint32(n), nil
}

// openNetwork opens the listening door and prepares the dials of the configuration.
func (a *agent) openNetwork(d *doors) error {
	c := a.cfg
	if c.TLS.Listen == "" && len(c.Dial) == 0 {
		return nil
	}
	certs, err := tunnel.LoadCertificates(tunnel.CertificateFiles{Cert: c.TLS.Cert, Key: c.TLS.Key, CA: c.TLS.CA}, a.logger)
	if err != nil {
		return err
	}
	observer := newDoorWatcher(a).observer()
	for _, plane := range c.Dial {
		out, err := tunnel.NewDialOut(tunnel.DialOutConfig{
			Addresses: []string{plane.Address}, Name: plane.Name, Certificates: certs, Streams: d.streams, Observer: observer, Logger: a.logger,
		})
		if err != nil {
			return err
		}
		d.network = append(d.network, out.Run)
	}
	if c.TLS.Listen == "" {
		return nil
	}
	door, err := tunnel.NewDoor(tunnel.DoorConfig{Certificates: certs, Streams: d.streams, Observer: observer, Logger: a.logger})
	if err != nil {
		return err
	}
	port, err := net.Listen("tcp", c.TLS.Listen)
	if err != nil {
		return fmt.Errorf("open the listening door: %w", err)
	}
	d.network = append(d.network, func(ctx context.Context) error { return door.Serve(ctx, port) })
	return nil
}
