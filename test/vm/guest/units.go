package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/godbus/dbus/v5"
)

// unitReaches waits until a unit's ActiveState is one of states. systemd itself
// says when something changed: to ask it again and again would take the time of
// the system under test.
func unitReaches(ctx context.Context, unit string, states []string) (state string, err error) {
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return "", fmt.Errorf("system bus: %w", err)
	}
	defer conn.Close()
	const systemd = "org.freedesktop.systemd1"
	manager := conn.Object(systemd, "/org/freedesktop/systemd1")
	if err := manager.CallWithContext(ctx, systemd+".Manager.Subscribe", 0).Err; err != nil {
		return "", fmt.Errorf("subscribe: %w", err)
	}
	var path dbus.ObjectPath
	if err := manager.CallWithContext(ctx, systemd+".Manager.LoadUnit", 0, unit).Store(&path); err != nil {
		return "", fmt.Errorf("%s: %w", unit, err)
	}
	changes := make(chan *dbus.Signal, 16)
	conn.Signal(changes)
	if err := conn.AddMatchSignalContext(ctx, dbus.WithMatchObjectPath(path),
		dbus.WithMatchInterface("org.freedesktop.DBus.Properties"), dbus.WithMatchArg(0, systemd+".Unit")); err != nil {
		return "", fmt.Errorf("signals of %s: %w", unit, err)
	}
	for {
		// systemd loads a unit that it has forgotten, to answer.
		var now string
		if err := conn.Object(systemd, path).CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0,
			systemd+".Unit", "ActiveState").Store(&now); err != nil {
			if ctx.Err() != nil {
				return state, nil
			}
			return state, fmt.Errorf("state of %s: %w", unit, err)
		}
		if state = now; slices.Contains(states, state) {
			return state, nil
		}
		select {
		case _, ok := <-changes:
			if !ok {
				return state, fmt.Errorf("the system bus hung up")
			}
		case <-ctx.Done():
			return state, nil
		}
	}
}
