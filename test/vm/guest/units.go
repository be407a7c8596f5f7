package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/godbus/dbus/v5"
)

const systemd = "org.freedesktop.systemd1"

// bus is the agent's connection to the system bus, made when it is first needed.
var bus struct {
	sync.Mutex
	conn *dbus.Conn
}

func connectBus() (*dbus.Conn, error) {
	bus.Lock()
	defer bus.Unlock()
	if bus.conn != nil && bus.conn.Connected() {
		return bus.conn, nil
	}
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		return nil, fmt.Errorf("system bus: %w", err)
	}
	if err := conn.Object(systemd, "/org/freedesktop/systemd1").Call(systemd+".Manager.Subscribe", 0).Err; err != nil {
		conn.Close()
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	bus.conn = conn
	return conn, nil
}

// unitReaches waits until a unit's ActiveState is one of states. systemd itself
// says when something changed: to ask it again and again would take the time of
// the system under test.
func unitReaches(ctx context.Context, unit string, states []string) (state string, err error) {
	conn, err := connectBus()
	if err != nil {
		return "", err
	}
	var path dbus.ObjectPath
	if err := conn.Object(systemd, "/org/freedesktop/systemd1").CallWithContext(ctx, systemd+".Manager.LoadUnit", 0, unit).Store(&path); err != nil {
		return "", fmt.Errorf("%s: %w", unit, err)
	}
	signals := make(chan *dbus.Signal, 64) // of all units that are waited for
	conn.Signal(signals)
	defer conn.RemoveSignal(signals)
	for _, news := range [][]dbus.MatchOption{
		{dbus.WithMatchObjectPath(path), dbus.WithMatchInterface("org.freedesktop.DBus.Properties"), dbus.WithMatchArg(0, systemd+".Unit")},
		// a failed unit that is forgotten with its device says no more
		{dbus.WithMatchInterface(systemd + ".Manager"), dbus.WithMatchMember("UnitRemoved"), dbus.WithMatchArg(0, unit)},
	} {
		if err := conn.AddMatchSignalContext(ctx, news...); err != nil {
			return "", fmt.Errorf("signals of %s: %w", unit, err)
		}
		defer conn.RemoveMatchSignal(news...)
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
		for changed := false; !changed; {
			select {
			case s, ok := <-signals:
				if !ok {
					return state, errors.New("the system bus hung up")
				}
				changed = s.Path == path || s.Name == systemd+".Manager.UnitRemoved"
			case <-ctx.Done():
				return state, nil
			}
		}
	}
}
