// Package config reads openct.conf.
//
// The grammar is C OpenCT's (grammar.go): every file that was valid there is valid
// here, and a few things are allowed that were traps there. What the file means is
// in Config (config.go), the keys in keys.go, one function each. A mistake in the
// grammar or in the value of a known key is an Error with file and line; keys nobody
// knows are Warnings, so that a file can serve more than one version.
package config
