// A conversation as a tree: each message's replies are branches, of which one is followed. Pure functions over plain
// objects that are never changed in place. Knows no element and no server.
//
// A node: { id, parent, role, content, children: [ids], active: place of the branch that is followed }, and what an
// answer has besides (status, calls, tokens, ...).

const ROOT = 'root';

export const emptyTree = () => ({
  next: 1,
  nodes: { [ROOT]: { id: ROOT, parent: null, role: 'root', children: [], active: 0 } },
});

// Adds a message below `parent` (null: the beginning) and follows it. Returns the tree and the new node's id.
export const add = (tree, parent, message) => {
  const above = tree.nodes[parent ?? ROOT];
  const id = `m${tree.next}`;
  const node = { children: [], active: 0, ...message, id, parent: above.id };
  const followed = { ...above, children: [...above.children, id], active: above.children.length };
  return [{ next: tree.next + 1, nodes: { ...tree.nodes, [id]: node, [above.id]: followed } }, id];
};

// The tree with some values of a node replaced.
export const change = (tree, id, values) => ({
  ...tree, nodes: { ...tree.nodes, [id]: { ...tree.nodes[id], ...values } },
});

// The messages that are followed, first to last.
export const path = (tree) => {
  const found = [];
  let node = tree.nodes[ROOT];
  while (node.active < node.children.length) {
    node = tree.nodes[node.children[node.active]];
    found.push(node);
  }
  return found;
};

// The messages above a node, first to last, without it.
export const above = (tree, id) => {
  const found = [];
  for (let at = tree.nodes[id].parent; at !== ROOT; at = tree.nodes[at].parent) found.unshift(tree.nodes[at]);
  return found;
};

// Which of its parent's branches a node is, counted from 1, and how many there are.
export const branchOf = (tree, id) => {
  const { children } = tree.nodes[tree.nodes[id].parent];
  return { place: children.indexOf(id) + 1, count: children.length };
};

// Follows the branch `by` places further; past an end nothing happens.
export const step = (tree, id, by) => {
  const parent = tree.nodes[tree.nodes[id].parent];
  const active = parent.children.indexOf(id) + by;
  return active < 0 || active >= parent.children.length ? tree : change(tree, parent.id, { active });
};

// A branch of its own that begins with a changed copy of the message. Returns the tree and the copy's id.
export const edited = (tree, id, content) => {
  const { role, parent } = tree.nodes[id];
  const copy = { role, content, ...(role === 'assistant' && { status: 'edited' }) };
  return add(tree, parent === ROOT ? null : parent, copy);
};

// Follows none of the branches below a message (null: the beginning), so that the next one begins another.
export const fork = (tree, id) => {
  const node = tree.nodes[id ?? ROOT];
  return change(tree, node.id, { active: node.children.length });
};

// How many branches lie below the last message that is followed, and the tree that follows the latest of them again.
export const unfollowed = (tree) => {
  const last = path(tree).at(-1) ?? tree.nodes[ROOT];
  const count = last.children.length;
  return { count, back: () => change(tree, last.id, { active: count - 1 }) };
};
