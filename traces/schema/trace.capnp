# The messages inside a trace. docs/format.md says how they lie in the file and what their numbers mean.

@0x8f16ca90e6e36fa0;

struct Header {
  config @0 :Config;
  images @1 :List(Image);
  build @2 :Text;               # The version of the program that recorded.
  origin @3 :Origin;            # Absent where our own machine ran.
  parts @4 :List(Part);         # Of what the program's machine was made; since 1.2.
}

struct Part {                   # A part of the machine's program.
  name @0 :Text;                # "cpu", "l0", "board", "guests", "definitions".
  digest @1 :Text;              # Of its source.
}

struct Origin {                 # A trace that was imported: `config` says nothing then.
  source @0 :Text;              # "iris", "trace-cmd" or "perf".
  name @1 :Text;                # The file's name, for readers only.
  clock @2 :Text;               # What stamps count: "instructions", "nanoseconds", "ticks" or "exits".
  note @3 :Text;
}

struct Image {
  kind @0 :Text;                # "kernel" or "initrd".
  name @1 :Text;                # The file's name, for readers only.
  hash @2 :Data;                # SHA-256 of the bytes.
  union {
    elsewhere @3 :Void;         # The bytes are not in the trace.
    bytes @4 :Data;
  }
}

struct Config {
  guest :union {
    builtIn @0 :Text;
    kernel :group {
      name @1 :Text;
      append @2 :Text;
    }
  }
  memory @3 :UInt64;
  vcpus @4 :UInt16;
  pcpus @5 :UInt16;
  backend @6 :Text;
  policy @7 :Policy;
  tlbEntries @8 :UInt32;
  seed @9 :UInt64;
  log @10 :Text;
  maxInstructions :union {
    never @11 :Void;
    at @12 :UInt64;
  }
  stopOn :union {
    nothing @13 :Void;
    text @14 :Text;
  }
  slice @15 :UInt64;
  digestInterval @16 :UInt64;
  slips @17 :List(Text);        # Mistakes that L0 was told to make.
  la57 @18 :Bool;               # The CPUs have 5-level paging.
}

struct Policy {                 # Words as on the command line.
  tags @0 :Text;
  transitionFlush @1 :Text;
  rootLoad @2 :Text;
  apicAccessFlush @3 :Bool;
  pool @4 :UInt16;
  vmcs02Writes @5 :Text;
  shadowing @6 :Text;
  poolRecycle @7 :Text;         # None for `lru`.
}

struct Block {
  first @0 :UInt64;             # The number of the first event.
  events @1 :UInt32;
  order @2 :Column;             # For each event, which of `tables` holds its row; a table's rows are in event order.
  stamps @3 :Table;             # A row for each run of events with one stamp: events, instruction, vcpu, pcpu.
  tables @4 :List(Table);       # One for each kind of event in the block.
  texts @5 :List(Text);         # Text columns hold 0 for none, or 1 + a place in this list.
}

struct Table {
  name @0 :Text;
  rows @1 :UInt32;
  columns @2 :List(Column);     # A column that a table lacks is all zeros.
}

struct Column {
  name @0 :Text;
  coding @1 :Coding;
  keys @2 :List(UInt8);         # Earlier columns of the table, by place, that the coding refers to.
  union {
    same @3 :UInt64;            # Every row has this number.
    u8 @4 :List(UInt8);         # Else a number a row, in the narrowest list that holds them all.
    u16 @5 :List(UInt16);
    u32 @6 :List(UInt32);
    u64 @7 :List(UInt64);
  }
}

enum Coding {
  plain @0;                     # The value itself.
  delta @1;                     # Zigzag of its difference from the row before, which is 0 before the first.
  relative @2;                  # Zigzag of its difference from the column keys[0] in the same row.
  keyed @3;                     # Zigzag of its difference from the last row that agrees with it in all key columns.
}

struct Index {
  offsets @0 :List(UInt64);     # Where each block's frame begins.
  firsts @1 :List(UInt64);      # The number of its first event.
  events @2 :List(UInt32);      # How many it holds.
  tables @3 :List(TableCounts);
}

struct TableCounts {
  name @0 :Text;
  rows @1 :List(UInt32);        # For each block.
}
