package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/phonehost/phonehost/scripts/testphone/binder"
	"github.com/phonehost/phonehost/scripts/testphone/initd"
)

const (
	binderDevice = "/dev/binder"
	// systemUID is that of Android's own service manager. Where phones use the same device after each other, the kernel takes only one
	// with the uid of the first as context manager.
	systemUID = 1000
)

// managerService is what init runs where the phone has binder devices: the service manager.
func managerService() []initd.Service {
	if _, err := os.Stat(binderDevice); err != nil {
		return nil
	}
	return []initd.Service{{Name: "servicemanager", Args: []string{"/system/bin/servicemanager"}, UID: systemUID}}
}

// runManager is the service manager until it is told to end.
func runManager(ctx context.Context) int {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	if err := binder.ServeManager(ctx, binderDevice, log); !errors.Is(err, context.Canceled) {
		return fail("servicemanager", err)
	}
	return 0
}
