package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/phonehost/phonehost/agent/store"
)

// watchdogInterval is how often the service manager wants to be told that the process is alive; zero if it does not
// (sd_watchdog_enabled(3)).
func watchdogInterval(getenv func(string) string, pid int) (time.Duration, error) {
	text := getenv("WATCHDOG_USEC")
	if text == "" {
		return 0, nil
	}
	if owner := getenv("WATCHDOG_PID"); owner != "" && owner != strconv.Itoa(pid) {
		return 0, nil // meant for another process
	}
	usec, err := strconv.ParseInt(text, 10, 64)
	if err != nil || usec <= 0 || usec > int64(24*time.Hour/time.Microsecond) {
		return 0, fmt.Errorf("WATCHDOG_USEC %q: must be microseconds, at most a day", text)
	}
	return time.Duration(usec) * time.Microsecond, nil
}

// answerWatchdog asks alive three times in each interval and tells the service manager when the answer is yes, until ctx ends. A
// process that does not answer is ended by the service manager with SIGABRT, which prints what every goroutine waits for, and
// started again.
func (a *agent) answerWatchdog(ctx context.Context, interval time.Duration, alive func(context.Context) error) {
	ticker := time.NewTicker(interval / 3)
	defer ticker.Stop()
	for {
		asking, cancel := context.WithTimeout(ctx, interval/2)
		err := alive(asking)
		cancel()
		if err == nil {
			err = notify(notifyWatchdog)
		}
		if err != nil && ctx.Err() == nil {
			a.logger.Error("watchdog not answered", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// alive finds out whether the agent does its work: a call comes through the Unix door and is answered, the phones can be looked at,
// and the database can be read. containerd and the disk are not asked: starting the agent anew would mend neither.
func (a *agent) alive(ctx context.Context) error {
	conn, err := grpc.NewClient("unix:"+a.cfg.Socket.Path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connect to the own socket: %w", err)
	}
	defer conn.Close()
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{}); err != nil {
		return fmt.Errorf("ask the own socket %s: %w", a.cfg.Socket.Path, err)
	}
	// These take no context: where they hang the watchdog goes without an answer, which is what it is for.
	a.phones.CountByStatus()
	if err := a.db.View(func(*store.Tx) error { return nil }); err != nil {
		return fmt.Errorf("read the database: %w", err)
	}
	return nil
}

// watch answers the service manager's watchdog until ctx ends, if there is one.
func (a *agent) watch(ctx context.Context) error {
	interval, err := watchdogInterval(os.Getenv, os.Getpid())
	if err != nil || interval == 0 {
		return err
	}
	a.answerWatchdog(ctx, interval, a.alive)
	return nil
}
