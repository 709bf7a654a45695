import { gql, type TypedDocumentNode } from '@apollo/client';
import type { Changes, List } from './useLiveList';

export type Status = 'TODO' | 'DOING' | 'DONE';
export type Task = { id: string; title: string; status: Status; changedBy: string };
export type Message = { id: string; author: string; to: string | null; text: string; sentAt: string };
export type Person = { name: string; typing: boolean };

const TASK_FIELDS = gql`
  fragment TaskFields on Task {
    id
    title
    status
    changedBy
  }
`;

const MESSAGE_FIELDS = gql`
  fragment MessageFields on Message {
    id
    author
    to
    text
    sentAt
  }
`;

export const TASKS: List<Task> = gql`
  query Tasks {
    list: tasks {
      cursor
      items {
        ...TaskFields
      }
    }
  }
  ${TASK_FIELDS}
`;

export const TASK_CHANGED: Changes<Task> = gql`
  subscription TaskChanged($after: String!) {
    item: taskChanged(after: $after) {
      ...TaskFields
    }
  }
  ${TASK_FIELDS}
`;

export const MESSAGES: List<Message> = gql`
  query Messages {
    list: messages {
      cursor
      items {
        ...MessageFields
      }
    }
  }
  ${MESSAGE_FIELDS}
`;

export const MESSAGE_SENT: Changes<Message> = gql`
  subscription MessageSent($after: String!) {
    item: messageSent(after: $after) {
      ...MessageFields
    }
  }
  ${MESSAGE_FIELDS}
`;

export const PRIVATE_MESSAGES: List<Message> = gql`
  query PrivateMessages {
    list: privateMessages {
      cursor
      items {
        ...MessageFields
      }
    }
  }
  ${MESSAGE_FIELDS}
`;

export const PRIVATE_MESSAGE_SENT: Changes<Message> = gql`
  subscription PrivateMessageSent($after: String!) {
    item: privateMessageSent(after: $after) {
      ...MessageFields
    }
  }
  ${MESSAGE_FIELDS}
`;

export const ADD_TASK: TypedDocumentNode<unknown, { id: string; title: string }> = gql`
  mutation AddTask($id: UUID!, $title: String!) {
    addTask(id: $id, title: $title) {
      id
    }
  }
`;

export const MOVE_TASK: TypedDocumentNode<unknown, { id: string; status: Status }> = gql`
  mutation MoveTask($id: UUID!, $status: Status!) {
    moveTask(id: $id, status: $status) {
      id
    }
  }
`;

export const SEND_MESSAGE: TypedDocumentNode<unknown, { id: string; text: string; to: string | null }> = gql`
  mutation SendMessage($id: UUID!, $text: String!, $to: String) {
    sendMessage(id: $id, text: $text, to: $to) {
      id
    }
  }
`;

export const PEOPLE: TypedDocumentNode<{ people: Person[] }, Record<string, never>> = gql`
  subscription People {
    people {
      name
      typing
    }
  }
`;

export const SET_TYPING: TypedDocumentNode<unknown, { typing: boolean }> = gql`
  mutation SetTyping($typing: Boolean!) {
    setTyping(typing: $typing)
  }
`;
