// Options of menus: long names keep both ends, which is where they differ.

const MOST = 36;
const START = 11;

export function option(name, value) {
  const isLong = name.length > MOST;
  const shown = isLong ? `${name.slice(0, START)}…${name.slice(START + 1 - MOST)}` : name;
  const made = new Option(shown, value);
  made.title = name;
  return made;
}
