// Package config reads openct.conf.
//
// The grammar is C OpenCT's (grammar.go): every file that was valid there is valid
// here, and a few things are allowed that were traps there. What the file means is
// in Config (config.go), the keys in keys.go, one function each. An error, in the
// grammar, in a value, or a key or a driver that nobody knows (drivers.go), costs
// the statement it is in: that is skipped, with a Warning, and the rest counts.
package config
