//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"openct/internal/socket"
	"openct/internal/status"
)

// memory is what processes have together, in KiB (proc(5), smaps_rollup).
type memory struct {
	RSS       int `json:"rss_kib"`
	PSS       int `json:"pss_kib"` // pages that several processes have count once
	Anonymous int `json:"anonymous_kib"`
}

// many is how all readers do side by side.
type many struct {
	Readers int    `json:"readers"`
	Idle    memory `json:"idle"`
	Loaded  memory `json:"loaded"` // after the APDUs
	result
}

// all has one client at each reader send APDUs as fast as they are answered.
func all(apdu []byte, length int, limit time.Duration) (m many, err error) {
	ctx := context.Background()
	files, err := filepath.Glob(filepath.Join(socket.Dir(), ".*.json"))
	if err != nil {
		return m, err
	}
	var pids []int
	var clients []*socket.Client
	for _, file := range files {
		number, err := strconv.Atoi(strings.Trim(strings.TrimSuffix(filepath.Base(file), ".json"), "."))
		if err != nil {
			continue // not about a reader that is served: .0.fault.json
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return m, err
		}
		d, err := status.DecodeDetail(b)
		if err != nil {
			return m, fmt.Errorf("%s: %w", file, err)
		}
		c, err := socket.DialReader(ctx, socket.Dir(), number)
		if err != nil {
			return m, err
		}
		defer c.Close()
		if _, err := c.Reset(ctx, 0); err != nil {
			return m, fmt.Errorf("reader %d: %w", number, err)
		}
		pids, clients = append(pids, d.PID), append(clients, c)
	}
	m.Readers = len(clients)
	if m.Idle, err = memoryOf(pids); err != nil {
		return m, err
	}
	var before, after costs
	for _, pid := range pids {
		before = before.and(spent(pid))
	}
	n, took, err := hurry(clients, apdu, length, limit)
	if err != nil {
		return m, err
	}
	for _, pid := range pids {
		after = after.and(spent(pid))
	}
	m.result = after.since(before).each(n, took)
	m.Loaded, err = memoryOf(pids)
	return m, err
}

func memoryOf(pids []int) (m memory, err error) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return m, err
		}
		for line := range strings.Lines(string(b)) {
			name, value, _ := strings.Cut(line, ":")
			var kib int
			fmt.Sscan(value, &kib)
			switch name {
			case "Rss":
				m.RSS += kib
			case "Pss":
				m.PSS += kib
			case "Anonymous":
				m.Anonymous += kib
			}
		}
	}
	return m, nil
}
